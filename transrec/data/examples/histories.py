"""Examples cut from users' histories: the code that all kinds of examples share.

Designs considered for the kinds. A flag that every reader checks ("are there labels?") takes 42 lines in nine files.
A loader, a stream and an evaluation for each kind soon differ where they should not. Chosen: one object per kind, which
decides which users and targets are for training and for evaluation; order, slots, batches and
ranking use it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
from transrec.data.examples.block_scan import BlockCounts, scan_blocks
from transrec.data.examples.evidence import of_nobody, of_questions
from transrec.data.examples.questions import Asked, Question, about_nobody, question
from transrec.data.examples.sequence_collation import SequenceCollation
from transrec.data.examples.splits import LeaveOneOutConfig, SplitConfig
from transrec.data.examples.user_sample import AskedBlock, UserSample, asked_blocks, draw_users, turns
from transrec.data.examples.windows import Window, Windows
from transrec.data.peers import Peers
from transrec.data.shards.bad_samples import Skipped, check_share, find_bad
from transrec.data.shards.remote import Place
from transrec.data.shards.schema import ShardSetError
from transrec.data.shards.shard_folder import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, ShardFolder
from transrec.data.shards.user_shards import CACHED_BLOCKS, UserBlock, UserShards
from transrec.protocols import Evidence, Part

Ints = NDArray[np.int64]
_CACHED = ("_cut", "train_stops")


class HistoriesConfig(Config):
    """The shards, the users that take part, and how histories are cut; common to all kinds of examples."""

    path: Annotated[Place, MayDiffer()] = Field(description="folder or URL of shards (`python -m data_tools build`)")
    fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training users to train on: a uniform sample, which contains every smaller "
        "sample; all users are evaluated",
    )
    min_interactions: int = Field(5, ge=1, description="users with fewer interactions are left out")
    windows: Literal["all", "last"] = Field(
        "all",
        description="cut a long history into windows, or keep only its last interactions (as the code released with "
        "TransRec does)",
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="distance in items between the ends of a user's windows; null: the user encoder's length, so that "
        "windows do not overlap; for a task, only the newest window",
    )
    split: SplitConfig = Field(LeaveOneOutConfig(), description="what is held out for validation and test")
    candidates: Literal["occurring", "catalogue"] = Field(
        "occurring", description="rank the items that occur in the data, or the whole catalogue"
    )
    workers: Annotated[int, MayDiffer()] = Field(1, ge=0, description="loader processes per rank")
    cache: Annotated[UserPath, MayDiffer()] = Field(
        DEFAULT_CACHE, description="node-local folder for tokenised content and remote shards"
    )
    cache_bytes: Annotated[int, MayDiffer()] = Field(
        DEFAULT_CACHE_BYTES,
        ge=0,
        description="size limit of the cache of remote shards in bytes; least recently used files are removed first",
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop", description="at an unreadable item or block of users, stop the run, or leave it out"
    )
    most_bad_share: Annotated[float, MayDiffer()] = Field(
        0.01, ge=0, le=1, description="largest share of users or items that may be left out before the run stops"
    )


class HistoryExamples(ABC):
    """Windows of the users' histories and the targets that follow them, under a split.

    Args:
        shards: all users.
        max_length: number of input positions of the user encoder.
        peers: the ranks that share the pass over the users.

    Raises:
        ShardSetError: a block of users cannot be read.
    """

    shortest_history: int  # least number of training interactions of a user who is trained on

    def __init__(self, shards: UserShards, config: HistoriesConfig, max_length: int, peers: Peers) -> None:
        self.shards, self.config, self.max_length = shards, config, max_length
        self.evidence: Sequence[Evidence] = ()  # whose scores are part of batches and questions
        users = shards.block_users
        self._training_left = int(np.ceil(config.fraction * users.sum())) - (np.cumsum(users) - users)
        self._cache()
        scanned = scan_blocks(len(shards), self.num_items, 3, self._count, peers)
        self._windows, self._users, self._interactions = scanned.numbers.T  # (blocks,) those that are trained on
        self.popularity = scanned.popularity  # (N + 1,) training interactions of each item
        self._occurring = scanned.occurring  # (N + 1,) whether a user who takes part has the item

    # Each kind decides:

    targets: Targets  # the vocabulary that is predicted and ranked

    @abstractmethod
    def taking_part(self, number: int, block: UserBlock) -> tuple[Ints, NDArray[np.bool_]]:
        """For each user of a block: the length of the history for training, and whether the user takes part.

        Only the first `_training_left[number]` users of the block may be trained on (`data.fraction`).
        """

    @abstractmethod
    def check_training(self) -> None:
        """Check that there is something to train on, which evaluation does not need.

        Raises:
            ConfigError: no user has anything to train on.
        """

    @abstractmethod
    def windows(self, number: int) -> Windows:
        """The training windows of block `number`."""

    def count_windows(self, number: int, train_stop: Ints) -> int:
        """The number of training windows of block `number`, whose users train on `train_stop` interactions."""
        return len(self.windows(number).user)

    @abstractmethod
    def own(self, number: int, block: UserBlock, user: int) -> NDArray[np.int32]:
        """The targets of a user of block `number`, which are never drawn as negatives."""

    @abstractmethod
    def asked(self, number: int, part: Part) -> Asked:
        """The questions of `part` about users of block `number`."""

    @abstractmethod
    def asked_users(self, number: int, part: Part) -> NDArray[Any]:
        """(questions,) the position in block `number` of the user of each question in `asked`."""

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
        """Targets that training may draw as negatives, ascending."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Hashes, by name, of the inputs to the examples other than the shards."""

    # The rest follows:

    @property
    def folder(self) -> ShardFolder:
        """The folder of the shards."""
        return self.shards.folder

    @property
    def skipped(self) -> Skipped:
        """Unreadable blocks of users that are left out, by number."""
        return self.shards.skipped

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue."""
        return self.shards.index.counts.items

    @property
    def block_shard(self) -> Ints:
        """(blocks,) number of the shard of each block."""
        found: NDArray[np.int64] = self.shards.block_shard
        return found

    @property
    def counts(self) -> list[int]:
        """The number of training windows in each block."""
        counts: list[int] = self._windows.tolist()
        return counts

    def training_size(self) -> dict[str, int]:
        """Numbers of training users, their interactions and windows per epoch."""
        sizes = {"users": self._users, "interactions": self._interactions, "windows": self._windows}
        return {name: int(of_blocks.sum()) for name, of_blocks in sizes.items()}

    @cached_property
    def candidates(self) -> Ints:
        """Item indices that may be recommended, ascending."""
        occurring = self._occurring.copy()
        if self.config.candidates == "catalogue":
            occurring[1:] = True
        return np.flatnonzero(occurring)

    @property
    def sampled(self) -> Ints:
        """Item indices that training may use: the candidates, as in the code released with TransRec."""
        return self.candidates

    @property
    def stride(self) -> int:
        """Items between the ends of a user's windows."""
        return min(self.config.stride or self.max_length, self.max_length)

    def block(self, number: int) -> UserBlock:
        """Block `number`, with histories shortened to the part that `data.windows` keeps."""
        block = self.shards.block(number)
        return block if self.config.windows == "all" else _last(block, self.max_length + 3)

    def example(self, number: int, within: int) -> Window:
        """Window `within` of block `number`."""
        block, cut = self._cut(number)
        user, start, stop, scored, target = (int(column[within]) for column in cut)
        items = block.history(user)[start:stop]
        return Window(block.user_ids[user].as_py(), start, items, scored, self.own(number, block, user), target)

    def collation(self, store: ItemStore, sampling: Sampling, seed: int) -> SequenceCollation:
        """The function that builds batches of windows with the content of `store`."""
        return SequenceCollation(self, store, sampling, seed)

    def sample_users(self, part: Part, most: int) -> UserSample | None:
        """A sample of `most` users who have a question of `part`; None if at most that many users have one."""
        return draw_users(self.shards.block_users, lambda n: len(np.unique(self.asked_users(n, part))), most)

    def questions(
        self, part: Part, rank: int = 0, world_size: int = 1, sample: UserSample | None = None
    ) -> Iterator[Question | None]:
        """This rank's questions, block by block; None for a block without any, so that all ranks take part equally."""
        for block in turns(asked_blocks(len(self.shards), sample), rank, world_size):
            yield None if block is None else self._question(block, part)

    def question_users(self, part: Part, sample: UserSample | None = None) -> Iterator[pa.StringArray]:
        """The user id of each question, in the order of the data, block by block."""
        for block in asked_blocks(len(self.shards), sample):
            users = self.asked_users(block.number, part)
            yield self.block(block.number).user_ids.take(pa.array(users[block.of(users)]))

    @property
    def nobody(self) -> Question:
        """A dummy question: a rank without questions runs the model on it, to keep step with the others."""
        return about_nobody(self.max_length, of_nobody(self.evidence))

    def _question(self, block: AskedBlock, part: Part) -> Question | None:
        asked = self.asked(block.number, part)
        if block.kept is not None:
            asked = asked.only(block.of(asked.users))
        if not len(asked.users):
            return None
        evidence = of_questions(self.evidence, asked.histories, self.popularity)
        return question(asked, self.block(block.number), block.number, self.max_length, evidence)

    def _cache(self) -> None:
        """Keep what was computed for the latest blocks.

        `train_stops(number)` is the length of the history for training of each user of a block, (users,); 0: none.
        """
        self._cut = lru_cache(maxsize=CACHED_BLOCKS)(self._cut_block)
        self.train_stops = lru_cache(maxsize=CACHED_BLOCKS)(self._train_stops)

    def _train_stops(self, number: int) -> Ints:
        return self.taking_part(number, self.block(number))[0]

    def _cut_block(self, number: int) -> tuple[UserBlock, Windows]:
        """Block and windows, cached: many steps use a block, and cutting it costs far more than taking one window."""
        return self.block(number), self.windows(number)

    def _count(self, number: int) -> BlockCounts:
        """Windows, users and interactions of a block that are trained on, and its items."""
        block = self.block(number)
        train_stop, kept = self.taking_part(number, block)
        trains = train_stop[train_stop >= self.shortest_history]
        return BlockCounts(
            (self.count_windows(number, train_stop), len(trains), int(trains.sum())),
            block.items[positions(block) < np.repeat(train_stop, block.lengths)],
            block.items[np.repeat(kept, block.lengths)],
        )

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in _CACHED}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._cache()


def open_folder(config: HistoriesConfig, path: Path | str | None = None) -> ShardFolder:
    """The shards of the configuration, or those at another `path`."""
    return ShardFolder(path or config.path, config.cache, config.cache_bytes)


def open_users(config: HistoriesConfig, peers: Peers) -> UserShards:
    """The users of the configuration's shards; all ranks leave out the same unreadable blocks.

    Raises:
        ShardSetError: the shards changed meanwhile, are unreadable, or more users are unreadable than may be left out.
    """
    shards = UserShards(open_folder(config))
    if len(peers.union([int(shards.folder.index_sha256[:15], 16)])) > 1:
        raise ShardSetError(f"{shards.folder} changed while the run was starting: start the run again")
    if config.on_bad_sample == "skip":
        shards.skip(find_bad(shards, range(len(shards)), peers.union))
        lost = int(shards.block_users[list(shards.skipped)].sum())
        check_share(shards.skipped, lost, int(shards.block_users.sum()), config.most_bad_share, "users")
    return shards


def positions(block: UserBlock) -> Ints:
    """(interactions,) position of each interaction in its user's history."""
    found: Ints = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
    return found


def _last(block: UserBlock, keep: int) -> UserBlock:
    lengths = np.minimum(block.lengths, keep)
    kept = positions(block) >= np.repeat(block.lengths - lengths, block.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {name: getattr(block, name)[kept] for name in ("items", "timestamps", "ratings")}
    return replace(block, offsets=offsets, **columns)
