"""A synthetic data set of any size, with structure worth learning.

Topics lie on a circle. Every item has a topic, expressed in the words of its title and text, and a popularity that
follows Zipf's law within the topic. A user walks the circle: mostly on to the next topic, sometimes staying (often, if
the profile is `steady`), sometimes jumping anywhere. So the topics of the last items predict the next topic, and the
text reveals the topic even of an unseen item.

With `law`, users behave differently: see `known_law.py`. With impressions, items and users also differ: see
`known_clicks.py`.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.rejects import RejectSink
from data_tools.source import IMPRESSION_COLUMNS, INTERACTION_COLUMNS, Batch, Item, SourceError, Totals
from data_tools.sources.known_clicks import ATTRIBUTES, PROBABILITY, KnownClicks, Visits
from data_tools.sources.known_law import KnownLaw

JUMP_SHARE = 0.1
STAY_SHARE = {"steady": 0.6, "restless": 0.1}
ITEMS_PER_TOPIC = 32
MAX_TOPICS = 64
WORDS_PER_TOPIC = 6
BATCH_ROWS = 2**18
_REDRAWS = 8
_FIRST_DAY = 1_500_000_000
_SECONDS_PER_YEAR = 365 * 86_400
_SECONDS_BETWEEN = 6 * 3600.0
_ONSETS = ["b", "br", "d", "dr", "f", "g", "gl", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v", "z"]
_RIMES = ["a", "e", "i", "o", "u", "an", "el", "in", "or", "um"]


_SHOWN = pa.schema([*IMPRESSION_COLUMNS, ("label_click", pa.float32()), (f"shown_{PROBABILITY}", pa.string())])

# (random generator, slice of users, user of each interaction) -> items (interactions,) and whether each is liked
_Choose = Callable[[np.random.Generator, slice, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SyntheticSource:
    """A seeded data set: equal fields give equal data.

    Raises:
        SourceError: fewer than one user, item or interaction, or numbers that do not fit the law or the clicks.
    """

    n_users: int = 1000
    n_items: int = 500
    n_interactions: int = 20_000
    seed: int = 0
    law: float | None = None
    n_impressions: int = 0
    interplay: int = 0
    lasting: float = 0.0
    fresh: float = 0.0

    def __post_init__(self) -> None:
        if min(self.n_users, self.n_items, self.n_interactions) < 1 or self.seed < 0:
            raise SourceError("--users, --items and --interactions must be at least 1, --seed at least 0")
        if self.law is not None:
            if not 0 <= self.law < 1:
                raise SourceError("--law must be at least 0 and below 1")
            if self.n_interactions % (2 * self.n_users) or self.n_items % 2:
                raise SourceError(
                    "with --law, every user has the same number of (context, answer) pairs: --interactions must be a "
                    "multiple of 2 x --users, and --items must be even"
                )
        self._check_clicks()

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--users", type=int, default=1000, metavar="N")
        parser.add_argument("--items", type=int, default=500, metavar="N")
        parser.add_argument("--interactions", type=int, default=20_000, metavar="N")
        parser.add_argument("--seed", type=int, default=0, metavar="N")
        parser.add_argument(
            "--law",
            type=float,
            metavar="POWER",
            help="exponent of the power law by which the error falls with more interactions; 0: nothing can be learned",
        )
        clicks = parser.add_argument_group("impressions whose best possible AUC is known")
        clicks.add_argument("--impressions", type=int, default=0, metavar="N")
        clicks.add_argument(
            "--interplay",
            type=int,
            default=0,
            metavar="N",
            help=f"how many of {ATTRIBUTES} attributes can be told only from text and image together (default: 0)",
        )
        clicks.add_argument(
            "--lasting",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="share of users whose interests do not appear in the newest quarter of the history (default: 0)",
        )
        clicks.add_argument(
            "--fresh",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="share of items, and of impressions, that appear and disappear within weeks (default: 0)",
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        counts = arguments.users, arguments.items, arguments.interactions
        knobs = arguments.interplay, arguments.lasting, arguments.fresh
        return cls(*counts, arguments.seed, arguments.law, arguments.impressions, *knobs)

    def options(self) -> dict[str, Any]:
        unused = {"law"} if self.law is None else set()
        unused |= set() if self.n_impressions else {"n_impressions", "interplay", "lasting", "fresh"}
        return {name: value for name, value in asdict(self).items() if name not in unused}

    def totals(self) -> Totals:
        return Totals(self.n_items, self.n_interactions, self.n_impressions or None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        return self._clicked_items() if self.n_impressions else self._topical_items()

    def _topical_items(self) -> Iterator[Item]:
        rng = self._rng("items")
        topics = self._topic_of_item()
        words = _make_words(rng, (self._n_topics + 2) * WORDS_PER_TOPIC + self.n_items)
        names = words[-self.n_items :]
        fillers = words[: 2 * WORDS_PER_TOPIC]
        vocabulary = np.array(words[len(fillers) : -self.n_items]).reshape(self._n_topics, WORDS_PER_TOPIC)
        for index, topic in enumerate(topics):
            spoken = rng.permutation(vocabulary[topic])
            filler = fillers[int(rng.integers(len(fillers)))]
            yield Item(
                file="synthetic",
                line=index + 1,
                item_id=f"item-{index}",
                title=f"{names[index].title()} {spoken[0]}",
                text=f"{names[index].title()} {spoken[0]}: {spoken[1]} {filler} {spoken[2]} and {spoken[3]}.",
                fields={"topic": f"topic-{topic}"},
                image=None,
            )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        return _numbered(self._visited() if self.n_impressions else self._walked())

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        return _numbered(self._shown()) if self.n_impressions else iter(())

    def _walked(self) -> Iterator[pa.RecordBatch]:
        rng = self._rng("interactions")
        lengths = self._history_lengths(rng)
        choose = self._walks() if self.law is None else self._pairs(self.law)
        for chosen in _cut_users(lengths):
            users = np.repeat(np.arange(chosen.stop - chosen.start), lengths[chosen])
            items, good = choose(rng, chosen, users)
            times = self._times(rng, users)
            ratings = np.where(good, rng.integers(4, 6, len(users)), rng.integers(1, 4, len(users)))
            columns = [
                _name_all("user", chosen.start + users),
                _name_all("item", items),
                pa.array(times),
                pa.array(ratings.astype(np.float32)),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=INTERACTION_COLUMNS)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self.n_impressions:
            return
        pace = np.where(self._is_steady(), "steady", "restless")
        for first in range(0, self.n_users, BATCH_ROWS):
            numbers = np.arange(first, min(first + BATCH_ROWS, self.n_users))
            columns = [_name_all("user", numbers), pa.array(pace[numbers], pa.string())]
            rows = pa.RecordBatch.from_arrays(columns, ["user_id", "pace"])
            yield Batch("synthetic", pa.array(numbers + 1), rows)

    @cached_property
    def clicks(self) -> KnownClicks:
        """The model that generates all of the data if there are impressions."""
        each = self.n_interactions // self.n_users, self.n_impressions // self.n_users
        return KnownClicks(self.n_items, *each, self.seed, self.interplay, self.lasting, self.fresh)

    def _check_clicks(self) -> None:
        if not self.n_impressions:
            if self.interplay or self.lasting or self.fresh:
                raise SourceError("--interplay, --lasting and --fresh need --impressions")
            return
        if self.law is not None:
            raise SourceError("--law and --impressions cannot be combined: leave one out")
        if self.n_impressions < 0 or self.n_impressions % self.n_users or self.n_interactions % self.n_users:
            raise SourceError(
                "with --impressions, every user has the same number of impressions and of interactions: --impressions "
                "and --interactions must be multiples of --users"
            )
        if problem := self.clicks.problem():
            raise SourceError(problem)

    def _clicked_items(self) -> Iterator[Item]:
        words = _make_words(self._rng("items"), self.n_items)
        for index, (name, kind) in enumerate(zip(words, self.clicks.looks.kinds.tolist(), strict=True)):
            text, image = self.clicks.text(index), self.clicks.image(index)
            yield Item("synthetic", index + 1, f"item-{index}", name.title(), text, {"kind": f"kind-{kind}"}, image)

    def _visited(self) -> Iterator[pa.RecordBatch]:
        for names, visits in self._visits(self.clicks.history):
            columns = [
                names,
                _name_all("item", visits.history.ravel()),
                pa.array(visits.history_times.ravel()),
                pa.nulls(visits.history.size, pa.float32()),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=INTERACTION_COLUMNS)

    def _shown(self) -> Iterator[pa.RecordBatch]:
        for names, visits in self._visits(self.clicks.impressions):
            columns = [
                names,
                _name_all("item", visits.shown.ravel()),
                pa.array(visits.shown_times.ravel()),
                pa.nulls(visits.shown.size, pa.string()),
                pa.array(visits.clicks.ravel().astype(np.float32)),
                pa.array(visits.probabilities.ravel()).cast(pa.string()),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_SHOWN)

    def _visits(self, each: int) -> Iterator[tuple[pa.StringArray, Visits]]:
        """Histories and impressions of users, and the user of each of their `each` rows."""
        for chosen in _cut_users(np.full(self.n_users, self.clicks.history + self.clicks.impressions)):
            users = np.repeat(np.arange(chosen.start, chosen.stop), each)
            yield _name_all("user", users), self.clicks.visits(chosen)

    @property
    def _n_topics(self) -> int:
        return int(np.clip(self.n_items // ITEMS_PER_TOPIC, 1, MAX_TOPICS))

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose.encode()])

    def _topic_of_item(self) -> np.ndarray:
        return self._rng("topics").permutation(np.arange(self.n_items) % self._n_topics)

    def _is_steady(self) -> np.ndarray:
        return self._rng("pace").random(self.n_users) < 0.5

    def _walks(self) -> _Choose:
        steady, popularity = self._is_steady(), _Popularity.of(self._topic_of_item(), self._n_topics)

        def choose(rng: np.random.Generator, chosen: slice, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            steps = self._steps(rng, steady[chosen][users])
            return popularity.choose(rng, users, self._walk(rng, users, steps)), steps <= 1

        return choose

    def _pairs(self, law: float) -> _Choose:
        world = KnownLaw(law, self.n_items // 2)
        answer_of = self._rng("answers").permutation(world.contexts)

        def choose(rng: np.random.Generator, chosen: slice, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            items = world.pairs(rng, len(users) // 2, answer_of).reshape(-1)
            return items, np.ones(len(items), bool)

        return choose

    def _history_lengths(self, rng: np.random.Generator) -> np.ndarray:
        """Number of interactions of each user; they sum to `n_interactions`, and none is far below the others."""
        if self.law is not None:
            return np.full(self.n_users, self.n_interactions // self.n_users)
        least = min(5, self.n_interactions // self.n_users)
        activity = rng.gamma(2.0, size=self.n_users)
        extra = rng.multinomial(self.n_interactions - least * self.n_users, activity / activity.sum())
        return least + extra

    def _steps(self, rng: np.random.Generator, steady: np.ndarray) -> np.ndarray:
        """Steps on the circle before each interaction: 0 stays, 1 moves to the next topic, 2 or more is a jump."""
        stay = np.where(steady, STAY_SHARE["steady"], STAY_SHARE["restless"])
        steps = (rng.random(len(steady)) >= stay).astype(np.int64)
        jumps = rng.random(len(steady)) < JUMP_SHARE
        steps[jumps] = rng.integers(2, max(3, self._n_topics), int(jumps.sum()))
        return steps

    def _walk(self, rng: np.random.Generator, users: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Topic of each interaction: every user starts at a random topic and adds up the steps.

        One running sum over all users is enough, because each user's random start hides where the previous one ended.
        """
        start = rng.integers(self._n_topics, size=_count(users))
        topics: np.ndarray = (start[users] + np.cumsum(steps)) % self._n_topics
        return topics

    def _times(self, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
        """Seconds since 1970, ascending for each user; every user starts on a random day of the first year."""
        elapsed = np.cumsum(1 + rng.exponential(_SECONDS_BETWEEN, len(users)).astype(np.int64))
        firsts = np.flatnonzero(np.diff(users, prepend=-1))
        start = np.zeros(_count(users), np.int64)
        start[users[firsts]] = _FIRST_DAY + rng.integers(_SECONDS_PER_YEAR, size=len(firsts)) - elapsed[firsts]
        times: np.ndarray = start[users] + elapsed
        return times


@dataclass(frozen=True)
class _Popularity:
    """The items sorted by topic; the items of topic t share the interval t..t+1 by popularity."""

    items: np.ndarray
    edges: np.ndarray
    first: np.ndarray  # position of the first item of each topic
    sizes: np.ndarray  # number of items of each topic

    @classmethod
    def of(cls, topic_of_item: np.ndarray, n_topics: int) -> Self:
        sizes = np.bincount(topic_of_item, minlength=n_topics)
        first = np.cumsum(sizes) - sizes
        rank = np.arange(len(topic_of_item)) - np.repeat(first, sizes)
        mass = 1.0 / (1.0 + rank)
        edges = np.cumsum(mass / np.repeat(np.add.reduceat(mass, first), sizes))
        return cls(np.argsort(topic_of_item, kind="stable"), edges, first, sizes)

    def choose(self, rng: np.random.Generator, users: np.ndarray, topics: np.ndarray) -> np.ndarray:
        """Draw an item of each topic by popularity; redraw items the user already had, a few times."""
        items = self._draw(rng, topics)
        for _ in range(_REDRAWS):
            _, fresh = np.unique(users * len(self.items) + items, return_index=True)
            repeated = np.ones(len(items), bool)
            repeated[fresh] = False
            items[repeated] = self._draw(rng, topics[repeated])
        return items

    def _draw(self, rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
        position = np.searchsorted(self.edges, topics + rng.random(len(topics)), side="right")
        first = self.first[topics]
        return self.items[np.clip(position, first, first + self.sizes[topics] - 1)]


def _cut_users(lengths: np.ndarray) -> Iterator[slice]:
    """Yield slices of consecutive users with about `BATCH_ROWS` interactions in total."""
    ends = np.cumsum(lengths)
    bounds = np.searchsorted(ends, np.arange(BATCH_ROWS, ends[-1], BATCH_ROWS)) + 1
    edges = np.unique([0, *bounds, len(lengths)])
    yield from (slice(first, last) for first, last in pairwise(edges.tolist()))


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[Batch]:
    """Batches with the lines that their rows would have in one file."""
    line = 1
    for rows in batches:
        yield Batch("synthetic", pa.array(np.arange(line, line + len(rows))), rows)
        line += len(rows)


def _count(users: np.ndarray) -> int:
    """Number of users, numbered from 0, up to the last one with any interaction."""
    return int(users.max(initial=-1)) + 1


def _make_words(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct, pronounceable words of two or more syllables."""
    syllables = [onset + rime for onset in _ONSETS for rime in _RIMES]
    length = 2
    while len(syllables) ** length < 4 * count:
        length += 1
    numbers = rng.choice(len(syllables) ** length, size=count, replace=False, shuffle=True)
    digits = [(numbers // len(syllables) ** place) % len(syllables) for place in range(length)]
    return ["".join(syllables[digit] for digit in word) for word in zip(*digits, strict=True)]


def _name_all(kind: str, numbers: np.ndarray) -> pa.StringArray:
    return pc.binary_join_element_wise(kind, pa.array(numbers).cast(pa.string()), "-")
