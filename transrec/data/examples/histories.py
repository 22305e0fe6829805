"""Examples cut from users' histories: the common part of their kinds.

Designs considered for the kinds. A flag that every reader asks ("are there labels?"), which stood in 42 lines of nine
files before. A loader, a stream and an evaluation for each kind, which soon differ where they should not. Taken: one
object a kind, which decides who trains, on what, and who is asked; order, slots, batches and ranking ask it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config, MayDiffer, UserPath
from transrec.data.batch import Sampling, Targets
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.questions import Asked, Question, about_nobody, ids_of, question
from transrec.data.examples.sequence_collation import SequenceCollation
from transrec.data.examples.splits import LeaveOneOutConfig, TemporalConfig
from transrec.data.examples.windows import Window, Windows
from transrec.data.shards.bad_samples import Agree, Skipped, check_share, find_bad
from transrec.data.shards.remote import Place
from transrec.data.shards.schema import ShardSetError
from transrec.data.shards.shard_folder import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, ShardFolder
from transrec.data.shards.user_shards import CACHED_BLOCKS, UserBlock, UserShards
from transrec.protocols import Part

Ints = NDArray[np.int64]


class HistoriesConfig(Config):
    """The shards, who of their users takes part, and how histories are cut: the same for every kind of example."""

    path: Annotated[Place, MayDiffer()] = Field(description="folder or URL of shards (`python -m data_tools build`)")
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
    split: Annotated[LeaveOneOutConfig | TemporalConfig, Field(discriminator="name")] = Field(
        LeaveOneOutConfig(), description="which interactions validate and test"
    )
    candidates: Literal["occurring", "catalogue"] = Field(
        "occurring", description="rank items that occur in the data, or the whole catalogue"
    )
    workers: Annotated[int, MayDiffer()] = Field(1, ge=0, description="loader processes per rank")
    cache: Annotated[UserPath, MayDiffer()] = Field(
        DEFAULT_CACHE, description="node-local folder for tokenised content and remote shards"
    )
    cache_bytes: Annotated[int, MayDiffer()] = Field(
        DEFAULT_CACHE_BYTES, ge=0, description="size of the cache of remote shards; the least recently used go first"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop", description="an unreadable block of users or item stops the run, or is left out"
    )
    most_bad_share: Annotated[float, MayDiffer()] = Field(
        0.01, ge=0, le=1, description="largest share of users or items that may be left out; more stop the run"
    )


class HistoryExamples(ABC):
    """Windows of the users' histories with targets behind them, seen through a split.

    Args:
        shards: all users.
        max_length: number of input positions of the user encoder.

    Raises:
        ShardSetError: a block of users cannot be read.
        ConfigError: nobody to train on.
    """

    def __init__(self, shards: UserShards, config: HistoriesConfig, max_length: int) -> None:
        self.shards, self.config, self.max_length = shards, config, max_length
        self.train_stops: list[NDArray[np.int32]] = []  # per block; of each user's history, how much trains
        self.popularity = np.zeros(self.num_items + 1, np.int64)  # training interactions of each item
        self._occurring = np.zeros(self.num_items + 1, bool)  # items of anybody who takes part
        self._scan()
        self._cut = lru_cache(maxsize=CACHED_BLOCKS)(self._cut_block)

    # Each kind decides:

    targets: Targets  # the vocabulary that is predicted and ranked

    @abstractmethod
    def taking_part(self, number: int, block: UserBlock, left: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Two columns over the users of a block: how much of a history trains, and whether any of it is used.

        Args:
            left: how many users, counted from the first of the block, may still train (`data.fraction`).
        """

    @abstractmethod
    def windows(self, number: int) -> Windows:
        """The training windows of block `number`."""

    @property
    @abstractmethod
    def counts(self) -> list[int]:
        """The number of training windows in each block."""

    @abstractmethod
    def own(self, number: int, block: UserBlock, user: int) -> NDArray[np.int32]:
        """The targets of a user of block `number`, which are never drawn as negatives."""

    @abstractmethod
    def asked(self, number: int, part: Part) -> Asked:
        """The questions of `part` about users of block `number`."""

    @abstractmethod
    def asked_users(self, number: int, part: Part) -> NDArray[Any]:
        """(questions,) the place in block `number` of the user whom each question of `asked` is about."""

    @abstractmethod
    def target_names(self) -> pa.StringArray:
        """The names of the targets; target t is entry t - 1."""

    @property
    @abstractmethod
    def ranked(self) -> Ints:
        """Targets that are ranked, ascending."""

    @property
    @abstractmethod
    def negatives(self) -> Ints:
        """Targets that training may meet as negatives, ascending."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Hashes, by name, of what the examples are made from besides the shards."""

    @abstractmethod
    def training_size(self) -> dict[str, int]:
        """Counts of what training sees: users, their interactions, the windows of an epoch."""

    # The rest follows:

    @property
    def folder(self) -> ShardFolder:
        return self.shards.folder

    @property
    def skipped(self) -> Skipped:
        """Blocks of users that are left out as unreadable, by number."""
        return self.shards.skipped

    @property
    def num_items(self) -> int:
        return self.shards.index.counts.items

    @property
    def block_shard(self) -> Ints:
        """(blocks,) number of the shard that each block lies in."""
        found: NDArray[np.int64] = self.shards.block_shard
        return found

    @cached_property
    def candidates(self) -> Ints:
        """Item indices that may be recommended, ascending."""
        occurring = self._occurring.copy()
        if self.config.candidates == "catalogue":
            occurring[1:] = True
        return np.flatnonzero(occurring)

    @property
    def sampled(self) -> Ints:
        """Item indices that training may know: the candidates (as in the reference)."""
        return self.candidates

    @property
    def stride(self) -> int:
        return min(self.config.stride or self.max_length, self.max_length)

    def block(self, number: int) -> UserBlock:
        """Block `number`, histories shortened to what `windows` keeps."""
        block = self.shards.block(number)
        return block if self.config.windows == "all" else _last(block, self.max_length + 3)

    def example(self, number: int, within: int) -> Window:
        """Window `within` of block `number`."""
        block, cut = self._cut(number)
        user, start, stop, scored, target = (int(column[within]) for column in cut)
        items = block.history(user)[start:stop]
        return Window(block.user_ids[user].as_py(), start, items, scored, self.own(number, block, user), target)

    def collation(self, store: ItemStore, sampling: Sampling, seed: int) -> SequenceCollation:
        """The function that makes batches of windows, with the content of `store`."""
        return SequenceCollation(self, store, sampling, seed)

    def questions(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Question | None]:
        """This rank's questions, a block at a time; None for a block without any, so every rank takes equal turns."""
        for turn in range(-(-len(self.shards) // world_size)):
            number = turn * world_size + rank
            yield self._question(number, part) if number < len(self.shards) else None

    def question_users(self, part: Part) -> list[str]:
        """The user id of each question, in the order of the data."""
        return [
            user_id
            for number in range(len(self.shards))
            for user_id in ids_of(self.block(number), self.asked_users(number, part))
        ]

    @property
    def nobody(self) -> Question:
        """A question about nobody: a rank without questions runs the model on it, to keep step with the others."""
        return about_nobody(self.max_length)

    def _question(self, number: int, part: Part) -> Question | None:
        asked = self.asked(number, part)
        return question(asked, self.block(number), number, self.max_length) if len(asked.users) else None

    def _cut_block(self, number: int) -> tuple[UserBlock, Windows]:
        """Cached: a block fills slots of many steps, and to cut all its windows costs far more than to take one."""
        return self.block(number), self.windows(number)

    def _scan(self) -> None:
        """One pass over the users."""
        left = int(np.ceil(self.config.fraction * self.shards.block_users.sum()))
        for number in range(len(self.shards)):
            block = self.block(number)
            train_stop, kept = self.taking_part(number, block, left)
            self.train_stops.append(train_stop.astype(np.int32))
            left -= int(self.shards.block_users[number])
            position = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
            trained = position < np.repeat(train_stop, block.lengths)
            self.popularity += np.bincount(block.items[trained], minlength=self.num_items + 1)
            self._occurring[block.items[np.repeat(kept, block.lengths)]] = True

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_cut"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._cut = lru_cache(maxsize=CACHED_BLOCKS)(self._cut_block)


def open_folder(config: HistoriesConfig, path: Path | str | None = None) -> ShardFolder:
    """The shards of the configuration, or those at another `path`."""
    return ShardFolder(path or config.path, config.cache, config.cache_bytes)


def open_users(config: HistoriesConfig, agree: Agree) -> UserShards:
    shards = UserShards(open_folder(config))
    if len(agree([int(shards.folder.index_sha256[:15], 16)])) > 1:
        raise ShardSetError(f"{shards.folder} changed while the run was starting: start again")
    if config.on_bad_sample == "skip":
        shards.skip(find_bad(shards, range(len(shards)), agree))
        lost = int(shards.block_users[list(shards.skipped)].sum())
        check_share(shards.skipped, lost, int(shards.block_users.sum()), config.most_bad_share, "users")
    return shards


def _last(block: UserBlock, keep: int) -> UserBlock:
    lengths = np.minimum(block.lengths, keep)
    position = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
    kept = position >= np.repeat(block.lengths - lengths, block.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return replace(block, offsets=offsets, items=block.items[kept], timestamps=block.timestamps[kept])
