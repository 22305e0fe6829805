"""Synthetic clicks whose best possible AUC is known; each option tests one part of a ranking model.

An item has one of 16 kinds. Its text names four attributes by one of two words each, and its image shows four more:
red, green, blue, stripes. Read as bits,

    kind = text XOR (the first `interplay` attributes of the image),

so with `interplay` 0 the text alone determines the kind, and with 4 neither text nor image says anything about it
without the other.

A user likes four kinds. The history, which comes before every impression, consists of three quarters of liked kinds
and one quarter of any kind. The liked kinds come last, or first if the user's interest is lasting, as it is for a share
`lasting` of the users: the newest quarter of their histories carries no information. Half of the items shown are of
liked kinds. A user clicks with the probability

    p = σ(BIAS + LIKING · (+1 if the user likes the kind, else -1) + APPEAL · a_kind),    a_kind from -1 to 1.

No ranking is better than the ranking by p, which can be reached from the content and the history.

A share `fresh` of the items is shown for some weeks only; their periods are spread over a year, and each impression
and interaction is of such an item with the probability `fresh`. Ids carry no information about items that first appear
after the training period.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WORDS = (("old", "new"), ("calm", "loud"), ("small", "large"), ("plain", "rich"))
ATTRIBUTES = len(WORDS)
KINDS = 2**ATTRIBUTES
LIKED = 4  # kinds that a user likes
BIAS, LIKING, APPEAL = -0.3, 1.5, 1.5
PROBABILITY = "probability"  # context column with the true probability
IMAGE_SIDE = 28
_TURNS_AT_ONCE = 3  # fresh items of a kind that are shown at a time
_FIRST_DAY = 1_500_000_000
_SECONDS_PER_YEAR = 365 * 86_400
_SECONDS_BETWEEN = 6 * 3600.0


class Looks(NamedTuple):
    """Attributes of each item, (items,)."""

    kinds: Ints
    texts: Ints  # the four attributes as bits
    images: Ints
    fresh: NDArray[np.bool_]


class Visits(NamedTuple):
    """Histories and impressions of some users; u users with h interactions or s impressions each."""

    history: Ints  # (u, h) items
    history_times: Ints  # (u, h) seconds since 1970, ascending
    shown: Ints  # (u, s) items
    shown_times: Ints  # (u, s), all after the history
    probabilities: Floats  # (u, s) of a click
    clicks: NDArray[np.bool_]  # (u, s)


@dataclass(frozen=True)
class KnownClicks:
    """Items, and users with `history` interactions and `impressions` each; the seed determines everything."""

    n_items: int
    history: int
    impressions: int
    seed: int = 0
    interplay: int = 0
    lasting: float = 0.0
    fresh: float = 0.0

    @property
    def n_fresh(self) -> int:
        return round(self.fresh * self.n_items)

    def problem(self) -> str | None:
        """Why the settings cannot be used; None if they can."""
        if not 0 <= self.interplay <= ATTRIBUTES:
            return f"--interplay must be from 0 to {ATTRIBUTES}"
        if not (0 <= self.lasting <= 1 and 0 <= self.fresh <= 1):
            return "--lasting and --fresh are shares: give numbers from 0 to 1"
        if any(0 < part < KINDS for part in (self.n_fresh, self.n_items - self.n_fresh)):
            return f"fresh items and others must number 0 or at least {KINDS} each: raise --items or change --fresh"
        return None

    @cached_property
    def looks(self) -> Looks:
        """Every kind is as frequent as any other, among fresh items and others."""
        rng = self._rng("looks")
        fresh = np.arange(self.n_items) >= self.n_items - self.n_fresh
        kinds, images = np.arange(self.n_items) % KINDS, rng.integers(KINDS, size=self.n_items)
        return Looks(kinds, kinds ^ (images & (2**self.interplay - 1)), images, fresh)

    @cached_property
    def appeals(self) -> Floats:
        """(kinds,) from -1 to 1."""
        return self._rng("appeals").permutation(np.linspace(-1, 1, KINDS))

    def best_auc(self) -> float:
        """The expected AUC of the probabilities themselves, over all impressions."""
        p = np.sort(np.concatenate([self._probability(np.full(KINDS, liked), self.appeals) for liked in (False, True)]))
        below = np.cumsum(1 - p) - (1 - p) / 2
        return float((p * below).sum() / (p.sum() * (1 - p).sum()))

    def visits(self, users: slice) -> Visits:
        """Histories and impressions of the users with these numbers."""
        rng, count = self._rng("visits", users.start), users.stop - users.start
        ranks = rng.random((count, KINDS)).argsort(axis=1)  # a user's liked kinds first
        times = self._times(rng, count)
        before, after = times[:, : self.history], times[:, self.history :]
        history = self._items(rng, _pick(rng, ranks, self._is_interest(rng, count), others_from=0), before)
        liked = rng.random(after.shape) < 0.5
        kinds = _pick(rng, ranks, liked, others_from=LIKED)
        probabilities = self._probability(liked, self.appeals[kinds])
        clicks = rng.random(after.shape) < probabilities
        return Visits(history, before, self._items(rng, kinds, after), after, probabilities, clicks)

    def text(self, item: int) -> str:
        words = [pair[(int(self.looks.texts[item]) >> place) & 1] for place, pair in enumerate(WORDS)]
        return f"It is {words[0]}, {words[1]}, {words[2]} and {words[3]}."

    def image(self, item: int) -> bytes:
        """A PNG of one colour, with or without grey stripes; no two are equally bright."""
        rng, bits = self._rng("image", item), int(self.looks.images[item]) >> np.arange(ATTRIBUTES) & 1
        pixels = np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
        pixels[:] = np.where(bits[:3], 210, 40) + rng.integers(-20, 21, 3)
        if bits[3]:
            pixels[np.arange(IMAGE_SIDE) % 4 < 2] = 128
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def _rng(self, purpose: str, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, *purpose.encode()])

    def _is_interest(self, rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
        """(count, history) whether an interaction is of a liked kind for certain: the first or last three quarters."""
        lasting = (rng.random(count) < self.lasting)[:, None]
        place, quarter = np.arange(self.history), self.history // 4
        return np.where(lasting, place < self.history - quarter, place >= quarter)

    def _times(self, rng: np.random.Generator, count: int) -> Ints:
        """(count, history + impressions) ascending; users come and go at any time of the year."""
        steps = 1 + rng.exponential(_SECONDS_BETWEEN, (count, self.history + self.impressions)).astype(np.int64)
        elapsed = np.cumsum(steps, axis=1)
        begin = rng.integers(np.maximum(_SECONDS_PER_YEAR - elapsed[:, -1:], 1))
        times: Ints = _FIRST_DAY + begin + elapsed
        return times

    def _items(self, rng: np.random.Generator, kinds: Ints, times: Ints) -> Ints:
        """An item of each kind: any that is not fresh, or a fresh one whose turn it is. Item numbers are kinds modulo
        their number, see `looks`."""
        others = self.n_items - self.n_fresh
        first = others + (kinds - others) % KINDS  # the first fresh item of the kind
        turns = (self.n_items - 1 - first) // KINDS + 1
        now = ((times - _FIRST_DAY) * turns) // _SECONDS_PER_YEAR - rng.integers(_TURNS_AT_ONCE, size=times.shape)
        fresh = first + KINDS * np.clip(now, 0, np.maximum(turns - 1, 0))
        each = (others - 1 - kinds) // KINDS + 1
        other = kinds + KINDS * (rng.random(kinds.shape) * each).astype(np.int64)
        found: Ints = np.where(rng.random(kinds.shape) < self.fresh, fresh, other)
        return found

    @staticmethod
    def _probability(liked: NDArray[np.bool_], appeal: Floats) -> Floats:
        found: Floats = 1 / (1 + np.exp(-(BIAS + LIKING * np.where(liked, 1, -1) + APPEAL * appeal)))
        return found


def _pick(rng: np.random.Generator, ranks: Ints, liked: NDArray[np.bool_], others_from: int) -> Ints:
    """A liked kind where liked, else one of the user's kinds from rank `others_from` on: 0 for any kind, `LIKED` for
    kinds that the user does not like."""
    place = np.where(liked, rng.integers(LIKED, size=liked.shape), rng.integers(others_from, KINDS, size=liked.shape))
    return np.take_along_axis(ranks, place, axis=1)
