"""Impressions: whether a user answers an item that is shown, given what the user did before.

Designs considered. A set of shards for impressions beside that of users: two readers, and a join in memory. A row for
each impression with a copy of its history: a request that shows 40 items copies one history 40 times. Taken: lists
beside the history in a user's record, or impressions derived from ratings. The history of each is found when a block
is read, and each is an example like any other: order, slots, resuming and lineage know nothing of it.

Shape letters: I impressions of a block, H heads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config, ConfigError
from transrec.data.batch import Impressions, Sampling, Targets
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.exposures import Exposures, ExposuresConfig, ShownConfig
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.histories import HistoriesConfig, Ints, open_users
from transrec.data.examples.impression_collation import Impression, ImpressionCollation, gathered
from transrec.data.examples.quantiles import order_statistics
from transrec.data.examples.splits import TEST, TRAIN, UNUSED, VALID, LastShareConfig, TemporalConfig, last_share
from transrec.data.shards.bad_samples import Agree, Skipped
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import CACHED_BLOCKS, UserBlock, UserShards
from transrec.protocols import Evidence, Part

_PARTS = {"valid": VALID, "test": TEST}


class ImpressionsConfig(Config):
    """Predict the answer to an item that is shown."""

    name: Literal["impressions"] = Field("impressions", description="the kind of example")
    exposures: ExposuresConfig = Field(ShownConfig(), description="where impressions come from")
    heads: list[str] = Field(["click"], min_length=1, description="the answers that are predicted")

    def scan(self, config: HistoriesConfig, max_length: int, agree: Agree = set) -> "ImpressionExamples":
        """Build the examples in the shards; with several ranks, `agree` makes all leave out the same blocks."""
        return ImpressionExamples(open_users(config, agree), config, self, max_length)


@dataclass(frozen=True)
class Asked:
    """Impressions that are evaluated, of one block."""

    shown: Impressions
    users: torch.Tensor  # (I,) number of the user, over all blocks
    requests: torch.Tensor  # (I,) number of the request, over all blocks
    items: torch.Tensor  # (I,) catalogue indices
    labels: torch.Tensor  # (I, H) float32; NaN where it was not observed


@dataclass(frozen=True)
class _Block:
    """A block of users with its impressions, and what each is for."""

    users: UserBlock
    shown: Exposures
    part: NDArray[np.int8]  # (I,) UNUSED, TRAIN, VALID or TEST
    stops: Ints  # (I,) length of the history before each

    @cached_property
    def trains(self) -> Ints:
        """The impressions that train."""
        return np.flatnonzero(self.part == TRAIN)


class ImpressionExamples:
    """The impressions of all users, each with the user's history before it.

    Raises:
        ConfigError: the shards hold no impressions or none with the heads, or none is left to train on, or the split is
            one of histories.
    """

    name = "impressions"

    def __init__(
        self, shards: UserShards, config: HistoriesConfig, settings: ImpressionsConfig, max_length: int
    ) -> None:
        self.shards, self.config, self.settings, self.max_length = shards, config, settings, max_length
        self.targets = Targets(shards.index.counts.items)
        self.evidence: tuple[Evidence, ...] = ()
        self.features = FeatureRows.none()
        self._check()
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._read)
        self._moments = self._starts_of_parts()
        self.popularity = np.zeros(self.targets.size + 1, np.int64)  # training impressions of each item
        self.block_impressions: list[int] = []  # of all parts
        self.counts = [self._scan(number) for number in range(len(shards))]
        if not sum(self.counts):
            raise ConfigError(f"no impression of {self.folder} is left to train on: see data.split and data.examples")

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
        """Every item: a model may be asked for any."""
        return np.arange(1, self.targets.size + 1)

    @cached_property
    def _first_users(self) -> Ints:
        """(blocks,) number of users before each block, by which users are numbered."""
        return np.concatenate([[0], np.cumsum(self.shards.block_users)])[:-1].astype(np.int64)

    def example(self, number: int, within: int) -> Impression:
        """Training impression `within` of block `number`."""
        block = self._block(number)
        return self._impression(block, int(block.trains[within]))

    def collation(self, store: ItemStore, sampling: Sampling, seed: int) -> ImpressionCollation:
        """The function that builds batches of impressions with the content of `store`."""
        return ImpressionCollation(
            self.features, store, sampling, seed, self.max_length, self.settings.heads, self.targets.size
        )

    def questions(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Asked | None]:
        """This rank's impressions of `part`, block by block; None for a block without any."""
        for turn in range(-(-len(self.shards) // world_size)):
            number = turn * world_size + rank
            yield self._asked(number, part) if number < len(self.shards) else None

    def question_users(self, part: Part) -> list[str]:
        """The user id of each impression of `part`, in the order of the data."""
        found: list[str] = []
        for number in range(len(self.shards)):
            block = self._block(number)
            places = self._places(block, part)
            found += block.users.user_ids.take(pa.array(block.shown.users[places])).to_pylist()
        return found

    @property
    def nobody(self) -> Asked:
        """An impression that nobody saw."""
        one = Impression("", 0, 1, 0, np.zeros(0, np.int32), np.full(len(self.settings.heads), np.nan), {}, {})
        shown = gathered([one], np.ones(1, np.int64), self.features, self.max_length)
        zero = torch.zeros(1, dtype=torch.int64)
        return Asked(shown, zero, zero, zero + 1, torch.zeros(1, len(self.settings.heads)))

    def training(self) -> Iterator[tuple[UserBlock, Exposures]]:
        """The users and the training impressions of each block."""
        for number in range(len(self.shards)):
            block = self._block(number)
            yield block.users, _of(block.shown, block.trains)

    def target_names(self) -> pa.StringArray:
        """The item ids."""
        return self.folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])["item_id"].combine_chunks()

    def training_size(self) -> dict[str, int]:
        """Numbers of users and impressions that train, and of clicks, which are those of the first head."""
        users = clicks = 0
        for _, shown in self.training():
            users += len(np.unique(shown.users))
            clicks += int(np.nansum(shown.labels[:, 0]))
        return {"users": users, "impressions": sum(self.counts), "clicks": clicks, "windows": sum(self.counts)}

    def remarks(self, part: Part) -> list[str]:
        """How many of the impressions show users and items that training knows, and whether negatives were drawn."""
        known_users = {user for users, shown in self.training() for user in _ids(users, shown.users)}
        users, items = [], []
        for number in range(len(self.shards)):
            block = self._block(number)
            places = self._places(block, part)
            users += [
                user in known_users
                for user in block.users.user_ids.take(pa.array(block.shown.users[places])).to_pylist()
            ]
            items.append(self.popularity[block.shown.items[places]] > 0)
        known = f"{np.mean(users):.0%} have a user and {np.mean(np.concatenate(items)):.0%} an item that training knows"
        found = [f"Of the impressions of this {part}, {known}."]
        if self.settings.exposures.name == "sampled":
            found.append(
                "Items without a click were drawn at random: these figures say little about items really shown."
            )
        return found

    def _check(self) -> None:
        if not isinstance(self.config.split, TemporalConfig | LastShareConfig):
            raise ConfigError(
                "`data.split`: impressions are split by name: temporal (one moment for all) or last_share"
            )
        index, settings = self.shards.index, self.settings
        if isinstance(settings.exposures, ShownConfig):
            missing = [head for head in settings.heads if head not in getattr(index, "heads", [])]
            if missing:
                known = ", ".join(getattr(index, "heads", [])) or "no impressions"
                raise ConfigError(
                    f"`data.examples.heads`: {self.folder} records {known}, not {missing[0]}; "
                    "or take ratings as impressions with `data.examples.exposures.name=rated`"
                )
        elif settings.heads != ["click"]:
            raise ConfigError(f"`data.examples.heads`: impressions that are {settings.exposures.name} have only: click")

    def _read(self, number: int) -> _Block:
        users = self.shards.block(number)
        shown = self.settings.exposures.read(users, self.settings.heads, self.targets.size)
        left = int(np.ceil(self.config.fraction * self.shards.block_users.sum())) - int(self._first_users[number])
        stops = shown.histories.stops(shown.users, shown.times)
        part = self._part_of(shown)
        part[(part == TRAIN) & (shown.users >= left)] = UNUSED
        few = np.diff(shown.histories.offsets) < self.config.min_interactions
        part[few[shown.users]] = UNUSED
        part[np.isnan(shown.labels).all(axis=1)] = UNUSED
        return _Block(users, shown, part, stops)

    def _part_of(self, shown: Exposures) -> NDArray[np.int8]:
        split = self.config.split
        if isinstance(split, LastShareConfig):
            return last_share(shown.users, split.valid, split.test)
        assert self._moments is not None
        return np.digitize(shown.times, self._moments).astype(np.int8)  # TRAIN, VALID, TEST are 0, 1, 2

    def _starts_of_parts(self) -> tuple[int, int] | None:
        split = self.config.split
        if not isinstance(split, TemporalConfig):
            return None

        def times() -> Iterator[Ints]:
            for number in range(len(self.shards)):
                block = self.shards.block(number)
                yield self.settings.exposures.read(block, self.settings.heads, self.targets.size).times

        last = sum(map(len, times())) - 1
        if last < 2:
            return 0, 0
        valid, test = order_statistics(times, [int(q * last) for q in (split.valid_from, split.test_from)])
        return valid, test

    def _scan(self, number: int) -> int:
        """The number of training impressions of a block, whose items are counted."""
        block = self._block(number)
        self.popularity += np.bincount(block.shown.items[block.trains], minlength=len(self.popularity))
        self.block_impressions.append(len(block.shown.items))
        return len(block.trains)

    def _places(self, block: _Block, part: Part) -> Ints:
        """The impressions of `part` in which the first head was observed."""
        return np.flatnonzero((block.part == _PARTS[part]) & ~np.isnan(block.shown.labels[:, 0]))

    def _asked(self, number: int, part: Part) -> Asked | None:
        block = self._block(number)
        places = self._places(block, part)
        if not len(places):
            return None
        impressions = [self._impression(block, int(place)) for place in places]
        pool = np.unique(
            np.concatenate([block.shown.items[places], *(i.history[-self.max_length :] for i in impressions)])
        )
        shown = _of(block.shown, places)
        _, requests = np.unique(np.stack([shown.users, shown.requests]), axis=1, return_inverse=True)
        return Asked(
            gathered(impressions, pool, self.features, self.max_length),
            torch.from_numpy(self._first_users[number] + shown.users),
            torch.from_numpy(sum(self.block_impressions[:number]) + requests),
            torch.from_numpy(shown.items),
            torch.from_numpy(shown.labels),
        )

    def _impression(self, block: _Block, place: int) -> Impression:
        shown = block.shown
        user = int(shown.users[place])
        first = shown.histories.offsets[user]
        return Impression(
            block.users.user_ids[user].as_py(),
            place,
            int(shown.items[place]),
            int(shown.times[place]),
            shown.histories.items[first : first + block.stops[place]],
            shown.labels[place],
            {name: column[place].as_py() for name, column in shown.context.items()},
            {
                name: column[user].as_py()
                for name, column in zip(block.users.profiles.schema.names, block.users.profiles.columns, strict=True)
            },
        )

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_block"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._read)


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


def _ids(users: UserBlock, places: Ints) -> list[str]:
    found: list[str] = users.user_ids.take(pa.array(np.unique(places))).to_pylist()
    return found
