"""Impressions: whether a user responds to an item that is shown, given what the user did before.

Designs considered. A set of shards for impressions beside that of users: two readers, and a join in memory. A row for
each impression with a copy of its history: a request that shows 40 items copies one history 40 times. Chosen: lists
beside the history in a user's record, or impressions derived from ratings. The history of each is found when a block
is read, and each is an example like any other, so order, slots, resuming and lineage need no special code.

Shape letters: I impressions of a block, H heads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from transrec.config import Config, ConfigError
from transrec.data.batch import Impressions, Sampling, Targets
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.block_scan import BlockCounts, scan_blocks, share
from transrec.data.examples.exposures import Exposures, ExposuresConfig, RatedConfig, ShownConfig
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.histories import HistoriesConfig, Ints, open_users
from transrec.data.examples.impression_block import Columns, ImpressionBlock, ImpressionExample
from transrec.data.examples.impression_collation import ImpressionCollation, distinct_items, over_pool
from transrec.data.examples.splits import TEST, TRAIN, UNUSED, VALID, LastShareConfig, TemporalConfig, last_share
from transrec.data.examples.user_sample import AskedBlock, UserSample, asked_blocks, draw_users, turns
from transrec.data.peers import Peers
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import CACHED_BLOCKS, UserBlock, UserShards
from transrec.protocols import Evidence, Part

_PARTS = {"valid": VALID, "test": TEST}
_THINNED = 9  # seed component that separates these random numbers from those of order, dropout and negatives


class ImpressionsConfig(Config):
    """Predict the response to an item that is shown."""

    name: Literal["impressions"] = Field("impressions", description="the kind of example")
    exposures: ExposuresConfig = Field(ShownConfig(), description="the source of impressions")
    heads: list[str] = Field(["click"], min_length=1, description="the responses to predict, such as click")
    keep_negatives: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training impressions without a response that are trained on, the same ones in every "
        "epoch; predicted probabilities are corrected for it",
    )

    @model_validator(mode="after")
    def _thins_one_head(self) -> Self:
        if self.keep_negatives < 1 and len(self.heads) > 1:
            raise ValueError(
                f"`keep_negatives` below 1 works with only one head, found {len(self.heads)}: list one in `heads`, or "
                "set `keep_negatives` to 1"
            )
        return self

    def scan(self, config: HistoriesConfig, max_length: int, peers: Peers) -> "ImpressionExamples":
        """Build the examples in the shards, with the other ranks."""
        return ImpressionExamples(open_users(config, peers), config, self, max_length, peers)


@dataclass(frozen=True)
class Asked:
    """Impressions that are evaluated, of one block."""

    shown: Impressions
    users: torch.Tensor  # (I,) number of the user, over all blocks
    requests: torch.Tensor  # (I,) number of the request, over all blocks
    items: torch.Tensor  # (I,) catalogue indices
    known: torch.Tensor  # (I,) whether the model trains on impressions of the user
    labels: torch.Tensor  # (I, H) float32; NaN where the response was not observed


class ImpressionExamples:
    """The impressions of all users, each with the user's history before it.

    Raises:
        ConfigError: the shards hold no impressions or none with these heads, or the split cannot be used for
            impressions.
    """

    name = "impressions"

    def __init__(
        self, shards: UserShards, config: HistoriesConfig, settings: ImpressionsConfig, max_length: int, peers: Peers
    ) -> None:
        self.shards, self.config, self.settings, self.max_length = shards, config, settings, max_length
        self.targets = Targets(shards.index.counts.items)
        self.evidence: tuple[Evidence, ...] = ()
        self._features = FeatureRows.none()
        self._check()
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._read)
        self._moments = self._starts_of_parts(peers)
        scanned = scan_blocks(len(shards), self.targets.size, 4, self._count, peers)
        self.counts: list[int] = scanned.numbers[:, 0].tolist()
        self._impressions = scanned.numbers[:, 1]  # (blocks,) of all parts
        self._users, self._clicks = (int(numbers.sum()) for numbers in scanned.numbers[:, 2:].T)
        self.popularity = scanned.popularity  # (N + 1,) training impressions of each item

    def check_training(self) -> None:
        """
        Raises:
            ConfigError: there is no impression to train on.
        """
        if not sum(self.counts):
            recorded = self.shards.index.heads and not isinstance(self.settings.exposures, ShownConfig)
            advice = "the shards contain recorded impressions: use them with `data.examples.exposures={name: shown}`"
            raise ConfigError(
                f"no impression of {self.folder} is left to train on: "
                + (advice if recorded else "check data.min_interactions, data.split and data.examples")
            )

    @property
    def folder(self) -> ShardFolder:
        """The folder of the shards."""
        return self.shards.folder

    @property
    def skipped(self) -> Skipped:
        """Unreadable blocks of users that are left out, by number."""
        return self.shards.skipped

    @property
    def block_shard(self) -> Ints:
        """(blocks,) number of the shard of each block."""
        found: NDArray[np.int64] = self.shards.block_shard
        return found

    @property
    def identity(self) -> Mapping[str, str]:
        return {}

    @property
    def ranked(self) -> Ints:
        """Every item, because any of them may be a candidate."""
        return np.arange(1, self.targets.size + 1)

    @property
    def features(self) -> FeatureRows:
        """The features in batches and questions."""
        return self._features

    @features.setter
    def features(self, features: FeatureRows) -> None:
        self._features = features
        self._block.cache_clear()

    @cached_property
    def _first_users(self) -> Ints:
        """(blocks,) number of readable users before each block, by which users are numbered."""
        sizes = self.shards.block_users.copy()
        sizes[list(self.skipped)] = 0
        found: Ints = np.cumsum(sizes) - sizes
        return found

    @cached_property
    def _first_requests(self) -> Ints:
        """(blocks,) a number that the requests of each block start from."""
        found: Ints = np.cumsum(self._impressions) - self._impressions
        return found

    def example(self, number: int, within: int) -> ImpressionExample:
        """Training impression `within` of block `number`."""
        block = self._block(number)
        return ImpressionExample(block, int(block.kept[within]))

    def collation(self, store: ItemStore, sampling: Sampling, seed: int) -> ImpressionCollation:
        """The function that builds batches of impressions with the content of `store`."""
        heads, kept = self.settings.heads, self.settings.keep_negatives
        return ImpressionCollation(
            self.features, store, sampling, seed, self.max_length, heads, self.targets.size, kept
        )

    def sample_users(self, part: Part, most: int) -> UserSample | None:
        """A sample of `most` users who have an impression of `part`; None if at most that many users have one."""

        def having_questions(number: int) -> int:
            block = self._block(number)
            return len(np.unique(block.shown.users[self._places(block, part)]))

        return draw_users(self.shards.block_users, having_questions, most)

    def questions(
        self, part: Part, rank: int = 0, world_size: int = 1, sample: UserSample | None = None
    ) -> Iterator[Asked | None]:
        """This rank's impressions of `part`, block by block; None for a block without any."""
        for block in turns(asked_blocks(len(self.shards), sample), rank, world_size):
            yield None if block is None else self._asked(block, part)

    def question_users(self, part: Part, sample: UserSample | None = None) -> Iterator[pa.StringArray]:
        """The user id of each impression of `part`, in the order of the data, block by block."""
        for asked in asked_blocks(len(self.shards), sample):
            block = self._block(asked.number)
            users = block.shown.users[self._places(block, part)]
            yield block.users.user_ids.take(pa.array(users[asked.of(users)]))

    @property
    def nobody(self) -> Asked:
        """A dummy impression: a rank without impressions runs the model on it, to keep step with the others."""
        heads, known = len(self.settings.heads), self.features
        columns = Columns.of_slots([None], self.max_length, heads, known.of_shown)
        zero = torch.zeros(1, dtype=torch.int64)
        shown = over_pool(columns, np.ones(1, np.int64), known)
        return Asked(shown, zero, zero, zero + 1, zero > 0, torch.zeros(1, heads))

    def training(self) -> Iterator[tuple[UserBlock, Exposures]]:
        """The users and the training impressions of each block."""
        for number in range(len(self.shards)):
            block = self._block(number)
            yield block.users, _of(block.shown, block.trains)

    def target_names(self) -> pa.StringArray:
        """The item ids."""
        return self.folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])["item_id"].combine_chunks()

    def training_size(self) -> dict[str, int]:
        """Numbers of training users, training impressions, and clicks, which are those of the first head."""
        impressions = int(self.popularity.sum())
        sizes = {"users": self._users, "impressions": impressions, "clicks": self._clicks}
        return sizes | {"windows": sum(self.counts)}

    def remarks(self, part: Part) -> list[str]:
        """The shares of impressions of users and items seen in training, and whether negatives were drawn."""
        asked = users = items = 0
        for number in range(len(self.shards)):
            block = self._block(number)
            places = self._places(block, part)
            asked += len(places)
            users += int(block.known(places).sum())
            items += int((self.popularity[block.shown.items[places]] > 0).sum())
        if not asked:
            return []
        known = (
            f"{users / asked:.0%} of the impressions are of a user and {items / asked:.0%} of an item seen in training"
        )
        found = [f"In this {part}, {known}."]
        if self.settings.exposures.name == "sampled":
            found.append(
                "Items without a click were drawn at random, so these figures say little about items really shown."
            )
        return found

    def _check(self) -> None:
        if not isinstance(self.config.split, TemporalConfig | LastShareConfig):
            raise ConfigError(
                "`data.split`: impressions need the split temporal (one point in time for all users) or last_share"
            )
        index, settings = self.shards.index, self.settings
        if isinstance(settings.exposures, ShownConfig):
            missing = [head for head in settings.heads if head not in index.heads]
            if missing:
                known = ", ".join(index.heads) or "no impressions"
                raise ConfigError(
                    f"`data.examples.heads`: {self.folder} records {known}, not {missing[0]}: choose a "
                    "recorded head, or use ratings as impressions with `data.examples.exposures.name=rated`"
                )
        elif settings.heads != ["click"]:
            raise ConfigError(
                f"`data.examples.heads`: {settings.exposures.name} impressions have only the head click; set [click]"
            )

    def _read(self, number: int) -> ImpressionBlock:
        users = self.shards.block(number)
        shown = self.settings.exposures.read(users, self.settings.heads, self.targets.size)
        left = int(np.ceil(self.config.fraction * self.shards.block_users.sum())) - int(self._first_users[number])
        part = self._part_of(shown)
        part[(part == TRAIN) & (shown.users >= left)] = UNUSED
        # Users who were shown items but did not interact count as having one interaction.
        few = np.maximum(users.lengths, 1) < self.config.min_interactions
        part[few[shown.users]] = UNUSED
        part[np.isnan(shown.labels).all(axis=1)] = UNUSED
        thinned = thinned_negatives(shown.labels[:, 0], number, self.settings.keep_negatives)
        return ImpressionBlock(users, shown, part, self.features.of_block(users, shown), thinned)

    def _part_of(self, shown: Exposures) -> NDArray[np.int8]:
        split = self.config.split
        if isinstance(split, LastShareConfig):
            alone = isinstance(self.settings.exposures, RatedConfig)  # each item was chosen by itself
            requests = np.arange(len(shown.users)) if alone else shown.requests
            return last_share(shown.users, requests, split.valid, split.test)
        assert self._moments is not None
        return np.digitize(shown.times, self._moments).astype(np.int8)  # TRAIN, VALID, TEST are 0, 1, 2

    def _starts_of_parts(self, peers: Peers) -> tuple[int, int] | None:
        split = self.config.split
        if not isinstance(split, TemporalConfig):
            return None

        def times() -> Iterator[Ints]:
            blocks = map(self.shards.block, share(len(self.shards), peers))
            return map(self.settings.exposures.times, blocks)

        return split.moments(times, peers)

    def _count(self, number: int) -> BlockCounts:
        """The training impressions of a block, all its impressions, its training users and clicks, and its items."""
        block = self._block(number)
        users, clicks = block.shown.users[block.trains], block.shown.labels[block.trains, 0]
        return BlockCounts(
            (len(block.kept), len(block.shown.items), len(np.unique(users)), int(np.nansum(clicks))),
            block.shown.items[block.trains],
            np.zeros(0, np.int32),
        )

    def _places(self, block: ImpressionBlock, part: Part) -> Ints:
        """The impressions of `part` in which the first head was observed."""
        return np.flatnonzero((block.part == _PARTS[part]) & ~np.isnan(block.shown.labels[:, 0]))

    def _asked(self, asked: AskedBlock, part: Part) -> Asked | None:
        number, block = asked.number, self._block(asked.number)
        places = self._places(block, part)
        places = places[asked.of(block.shown.users[places])]
        if not len(places):
            return None
        columns = Columns.of(block, places, self.max_length)
        shown = _of(block.shown, places)
        _, requests = np.unique(shown.users * (1 + shown.requests.max()) + shown.requests, return_inverse=True)
        return Asked(
            over_pool(columns, distinct_items(columns), self.features),
            torch.from_numpy(self._first_users[number] + shown.users),
            torch.from_numpy(self._first_requests[number] + requests),
            torch.from_numpy(shown.items),
            torch.from_numpy(block.known(places)),
            torch.from_numpy(shown.labels),
        )

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_block"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._read)


def thinned_negatives(labels: NDArray[np.float32], block: int, kept: float) -> NDArray[np.bool_] | None:
    """(I,) the impressions of a block without a response that are not trained on; None if all are trained on."""
    if kept == 1:
        return None
    draws = np.random.default_rng((_THINNED, block)).random(len(labels))  # does not depend on the run's seed
    found: NDArray[np.bool_] = (labels == 0) & (draws >= kept)
    return found


def _of(shown: Exposures, places: Ints) -> Exposures:
    context = {name: column.take(pa.array(places)) for name, column in shown.context.items()}
    return Exposures(
        shown.users[places],
        shown.items[places],
        shown.times[places],
        shown.requests[places],
        shown.labels[places],
        context,
        shown.histories,
    )
