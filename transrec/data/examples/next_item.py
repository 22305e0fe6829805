"""Next item: each item of a user's history is predicted from the items before it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config, ConfigError
from transrec.data.batch import Targets
from transrec.data.examples.block_scan import share
from transrec.data.examples.histories import HistoriesConfig, HistoryExamples, Ints, open_users, positions
from transrec.data.examples.questions import Asked
from transrec.data.examples.splits import LastShareConfig, Split, TemporalConfig, leave_one_out, temporal
from transrec.data.examples.windows import Windows, count_windows, cut_windows
from transrec.data.peers import Peers
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.user_shards import UserBlock, UserShards
from transrec.protocols import Part

_FEW_REPEATS = 0.01  # share of the targets below which repeats are not worth a remark


class NextItemExamplesConfig(Config):
    """Predict the next item of a history."""

    name: Literal["next_item"] = Field("next_item", description="the kind of example")

    def scan(self, config: HistoriesConfig, max_length: int, peers: Peers) -> "NextItemExamples":
        """Build the examples in the shards, with the other ranks."""
        return NextItemExamples(open_users(config, peers), config, max_length, peers)


class NextItemExamples(HistoryExamples):
    """Training uses each user's history before the held-out items; validation and test use the held-out items."""

    name = "next_item"
    shortest_history = 2  # one is predicted from the other

    def __init__(self, shards: UserShards, config: HistoriesConfig, max_length: int, peers: Peers) -> None:
        if isinstance(config.split, LastShareConfig):
            raise ConfigError("`data.split.name=last_share` is for impressions only: choose leave_one_out or temporal")
        # Start of validation and of test in a temporal split: seconds since 1970.
        self._moments = _moments(shards, config, peers)
        super().__init__(shards, config, max_length, peers)
        self.targets = Targets(self.num_items)

    def check_training(self) -> None:
        if not self._users.any():
            raise ConfigError(
                f"no user of {self.folder} has anything to train on{self._before}: check data.min_interactions and "
                "data.fraction"
            )

    @property
    def _before(self) -> str:
        return "" if self._moments is None else f" before {self._moments[0]} s (data.split.valid_from)"

    def taking_part(self, number: int, block: UserBlock) -> tuple[Ints, NDArray[np.bool_]]:
        split = self.split(block)
        train_stop = np.where(np.arange(len(block)) < self._training_left[number], split.train_stop, 0)
        return train_stop, (split.train_stop > 0) | (split.test >= 0) | (split.valid >= 0)

    def split(self, block: UserBlock) -> Split:
        """The training, validation and test positions of each user of a block."""
        if self._moments is None:
            return leave_one_out(block.lengths, self.config.min_interactions)
        return temporal(block.lengths, block.timestamps, self.config.min_interactions, *self._moments)

    def windows(self, number: int) -> Windows:
        return cut_windows(self.train_stops(number), self.max_length, self.stride)

    def count_windows(self, number: int, train_stop: Ints) -> int:
        return int(count_windows(train_stop, self.stride).sum())

    @property
    def sampled(self) -> Ints:
        """Item indices that training may use: those that occur in it.

        An item that only occurs in held-out parts can be no target of training. As a negative it would teach the model
        to rank new items last.
        """
        return np.flatnonzero(self.popularity)

    def own(self, number: int, block: UserBlock, user: int) -> NDArray[np.int32]:
        """The user's training history."""
        return block.history(user)[: self.train_stops(number)[user]]

    def asked(self, number: int, part: Part) -> Asked:
        block = self.block(number)
        positions = self._positions(block, part)
        users = np.flatnonzero(positions >= 0)
        histories = [block.history(int(u))[: positions[u]] for u in users]
        return Asked(users, histories, block.items[block.offsets[users] + positions[users]], histories)

    def asked_users(self, number: int, part: Part) -> NDArray[Any]:
        return np.flatnonzero(self._positions(self.block(number), part) >= 0)

    def _positions(self, block: UserBlock, part: Part) -> Ints:
        """(users,) position of the target of `part` in each history; -1: none."""
        split = self.split(block)
        return split.valid if part == "valid" else split.test

    def target_names(self) -> pa.StringArray:
        """The item ids."""
        return self.folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])["item_id"].combine_chunks()

    @property
    def ranked(self) -> Ints:
        return self.candidates

    @property
    def negatives(self) -> Ints:
        return self.sampled

    @property
    def identity(self) -> Mapping[str, str]:
        return {}

    def remarks(self, part: Part) -> list[str]:
        """How many users are too short to have a target, whether the order of targets and the items before them is
        known, and how many targets are already in the history."""
        tied = repeated = asked = few = users = 0
        for number in range(len(self.shards)):
            block = self.block(number)
            positions = self._positions(block, part)
            places = (block.offsets[:-1] + positions)[positions > 0]
            tied += int((block.timestamps[places] == block.timestamps[places - 1]).sum())
            repeated += _repeated(block, positions)
            asked += len(places)
            few += int((block.lengths < self.config.min_interactions).sum())
            users += len(block)

        def share(count: int) -> str:
            return f"{count:,} of {asked:,} targets of this {part} ({count / asked:.0%})"

        remarks = []
        if few:
            remarks.append(
                f"{few:,} of {users:,} users have fewer than {self.config.min_interactions} interactions "
                f"(data.min_interactions) and are no part of this {part}."
            )
        if tied:
            remarks.append(
                f"{share(tied)} have the same time as the item before, so the two are in the order of the rows."
            )
        if repeated and repeated >= _FEW_REPEATS * asked:
            remarks.append(
                f"{share(repeated)} are already in the user's history: evaluation.repeats=count ranks them, miss "
                "counts them as misses; recommend and serve recommend them only with `repeats`."
            )
        return remarks

    @property
    def block_sizes(self) -> Ints:
        """(blocks,) number of training interactions of each block."""
        found: Ints = self._interactions
        return found

    def training_sequences(self, blocks: Iterable[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(concatenated items, length of each user's training history) of some blocks, for evidence to count."""
        for number in blocks:
            block, stops = self.block(number), self.train_stops(number)
            trained = positions(block) < np.repeat(stops, block.lengths)
            yield block.items[trained].astype(np.int64), stops


def _repeated(block: UserBlock, asked: Ints) -> int:
    """The number of users whose target, at the position `asked` (users,) of the history, also occurs before it."""
    if not (asked > 0).any():  # in a block without interactions, there are no items to index
        return 0
    users = np.repeat(np.arange(len(block)), block.lengths)
    targets = block.items[np.maximum(block.offsets[:-1] + asked, 0)]
    same = (block.items == targets[users]) & (positions(block) < asked[users])
    return len(np.unique(users[same]))


def _moments(shards: UserShards, config: HistoriesConfig, peers: Peers) -> tuple[int, int] | None:
    if not isinstance(config.split, TemporalConfig):
        return None

    def timestamps() -> Iterator[NDArray[np.int64]]:
        return (shards.block(number).timestamps for number in share(len(shards), peers))

    valid_from, test_from = config.split.moments(timestamps, peers)
    if valid_from == test_from:
        raise ConfigError(
            f"data.split.name=temporal leaves nothing in {shards.folder} to validate on: the interactions at "
            f"valid_from={config.split.valid_from} and test_from={config.split.test_from} have the same time, "
            f"{valid_from} s; choose quantiles further apart, or data.split.name=leave_one_out"
        )
    return valid_from, test_from
