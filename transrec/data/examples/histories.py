"""What one pass over the users tells: the split of every block, item popularity, and which items are candidates."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config, ConfigError, UserPath
from transrec.data.examples.labels import Labels
from transrec.data.examples.quantiles import order_statistics
from transrec.data.examples.splits import LeaveOneOutConfig, Split, TemporalConfig, leave_one_out, temporal
from transrec.data.examples.task import TaskConfig
from transrec.data.examples.windows import Windows, count_windows, cut_windows
from transrec.data.shards.bad_samples import Agree, check_share, find_bad
from transrec.data.shards.remote import Place
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA, ShardSetError
from transrec.data.shards.shard_folder import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, ShardFolder
from transrec.data.shards.user_shards import UserBlock, UserShards


class DataConfig(Config):
    path: Place = Field(description="folder or URL of shards (`python -m data_tools build`)")
    task: TaskConfig | None = Field(None, description="what to predict; null: the next item")
    fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="train on this first part of those who train, a nested uniform sample; evaluate all",
    )
    min_interactions: int = Field(5, ge=1, description="users with fewer are left out altogether")
    windows: Literal["all", "last"] = Field(
        "all", description="cut a long history into windows, or keep its last interactions only (released code)"
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="items between the ends of a user's windows; null: the user encoder's length, no overlap, "
        "and of a task the newest window alone",
    )
    split: Annotated[LeaveOneOutConfig | TemporalConfig, Field(discriminator="name")] = LeaveOneOutConfig()
    candidates: Literal["occurring", "catalogue"] = Field(
        "occurring", description="rank items that occur in the data, or the whole catalogue"
    )
    workers: int = Field(1, ge=0, description="loader processes per rank")
    cache: UserPath = Field(DEFAULT_CACHE, description="node-local folder for tokenised content and remote shards")
    cache_bytes: int = Field(
        DEFAULT_CACHE_BYTES, ge=0, description="of remote shards; the least recently used go first"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop", description="an unreadable block of users or item stops the run, or is left out"
    )
    most_bad_share: float = Field(0.01, ge=0, le=1, description="of users or items left out; more stop the run")


@dataclass(frozen=True)
class Interactions:
    """Users of a shard set seen through a split; `max_length` is the number of input positions of the user encoder."""

    shards: UserShards
    config: DataConfig
    max_length: int
    moments: tuple[int, int] | None = None  # temporal split: seconds since 1970
    labels: Labels | None = None  # of a task
    train_stops: list[NDArray[np.int32]] = field(default_factory=list)  # per block; one number for every user there is
    popularity: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # (N + 1,), training only
    candidates: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # ascending item indices

    @classmethod
    def scan(cls, config: DataConfig, max_length: int, agree: Agree = set) -> "Interactions":
        """One pass over the users; with several ranks `agree` makes them leave out the same blocks.

        Raises:
            ShardSetError: unreadable shards, or more of them than may be left out.
            ConfigError: nobody to train on.
        """
        shards = open_users(config, agree)
        self = cls(shards, config, max_length, moments=_moments(shards, config), labels=_labels(shards, config))
        num_items = shards.index.counts.items
        popularity, occurring = np.zeros(num_items + 1, np.int64), np.zeros(num_items + 1, bool)
        train_stops = []
        left = int(np.ceil(config.fraction * shards.block_users.sum()))
        for number in range(len(shards)):
            block = self.block(number)
            train_stop, kept = self._taking_part(number, block, left)
            train_stops.append(train_stop.astype(np.int32))
            left -= int(shards.block_users[number])
            position = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
            trained = position < np.repeat(train_stop, block.lengths)
            popularity += np.bincount(block.items[trained], minlength=num_items + 1)
            occurring[block.items[np.repeat(kept, block.lengths)]] = True
        if config.candidates == "catalogue":
            occurring[1:] = True
        if self.labels is None and not any((stops >= 2).any() for stops in train_stops):
            raise ConfigError(
                f"no user of {shards.folder} has anything to train on: see data.min_interactions and data.fraction"
            )
        return replace(self, train_stops=train_stops, popularity=popularity, candidates=np.flatnonzero(occurring))

    @property
    def sampled(self) -> NDArray[np.int64]:
        """Items that training may know: the candidates (as the reference), without the future's."""
        return self.candidates if self.moments is None else np.flatnonzero(self.popularity)

    @property
    def negatives(self) -> tuple[NDArray[np.int64], int]:
        """What training may meet as negatives, and the size of the vocabulary that these are of."""
        if self.labels is not None:
            return np.arange(1, len(self.labels) + 1), len(self.labels)
        return self.sampled, self.shards.index.counts.items

    def target_names(self) -> pa.StringArray:
        """Of the target vocabulary, in order: classes or items of a task, or item ids; target t is entry t - 1."""
        if self.labels is not None:
            return pa.array(self.labels.names, pa.string())
        catalogue = self.shards.folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])
        return catalogue["item_id"].combine_chunks()

    @property
    def stride(self) -> int:
        return min(self.config.stride or self.max_length, self.max_length)

    def training_size(self) -> dict[str, int]:
        """Users that training sees, their interactions before held-out ones, windows of an epoch; labels of a task."""
        trained = [stops[stops >= (1 if self.labels is not None else 2)] for stops in self.train_stops]
        return {
            "users": sum(map(len, trained)),
            "interactions": sum(int(stops.sum()) for stops in trained),
            "windows": sum(self.window_counts),
            **({"labels": int(self.labels.counts.sum())} if self.labels is not None else {}),
        }

    def block(self, number: int) -> UserBlock:
        """Block `number`, histories shortened to what `windows` keeps."""
        block = self.shards.block(number)
        return block if self.config.windows == "all" else _last(block, self.max_length + 3)

    def windows(self, number: int) -> Windows:
        """What of block `number` trains."""
        if self.labels is not None:
            shortest = max(1, self.config.min_interactions)
            return self.labels.windows(number, self.block(number), self.max_length, self.config.stride, shortest)
        return cut_windows(self.train_stops[number], self.max_length, self.stride)

    @cached_property
    def window_counts(self) -> list[int]:
        """Of each block; those of a task depend on the histories, which are read for it."""
        if self.labels is not None:
            return [len(self.windows(number).user) for number in range(len(self.shards))]
        return [int(count_windows(stops, self.stride).sum()) for stops in self.train_stops]

    def split(self, block: UserBlock) -> Split:
        if self.moments is None:
            return leave_one_out(block.lengths, self.config.min_interactions)
        return temporal(block.lengths, block.timestamps, self.config.min_interactions, *self.moments)

    def _taking_part(self, number: int, block: UserBlock, left: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For each user: how many items train, if the user is among the `left` first ones, and whether any are used."""
        if self.labels is not None:
            return self.labels.taking_part(number, block.lengths)
        split = self.split(block)
        train_stop = np.where(np.arange(len(block)) < left, split.train_stop, 0)
        return train_stop, (split.train_stop > 0) | (split.test >= 0) | (split.valid >= 0)


def open_folder(config: DataConfig, path: Path | str | None = None) -> ShardFolder:
    """The shards of the configuration, or those at another `path`."""
    return ShardFolder(path or config.path, config.cache, config.cache_bytes)


def open_users(config: DataConfig, agree: Agree) -> UserShards:
    shards = UserShards(open_folder(config))
    if len(agree([int(shards.folder.index_sha256[:15], 16)])) > 1:
        raise ShardSetError(f"{shards.folder} changed while the run was starting: start again")
    if config.on_bad_sample == "skip":
        shards.skip(find_bad(shards, range(len(shards)), agree))
        lost = int(shards.block_users[list(shards.skipped)].sum())
        check_share(shards.skipped, lost, int(shards.block_users.sum()), config.most_bad_share, "users")
    return shards


def _labels(shards: UserShards, config: DataConfig) -> Labels | None:
    if config.task is None:
        return None
    return Labels.read(config.task, shards, partial(open_folder, config), config.min_interactions, config.fraction)


def _moments(shards: UserShards, config: DataConfig) -> tuple[int, int] | None:
    if not isinstance(config.split, TemporalConfig):
        return None

    def timestamps() -> Iterator[NDArray[np.int64]]:
        return (shards.block(number).timestamps for number in range(len(shards)))

    last = sum(map(len, timestamps())) - 1
    valid_from, test_from = order_statistics(
        timestamps, [int(q * last) for q in (config.split.valid_from, config.split.test_from)]
    )
    return valid_from, test_from


def _last(block: UserBlock, keep: int) -> UserBlock:
    lengths = np.minimum(block.lengths, keep)
    position = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
    kept = position >= np.repeat(block.lengths - lengths, block.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return replace(block, offsets=offsets, items=block.items[kept], timestamps=block.timestamps[kept])
