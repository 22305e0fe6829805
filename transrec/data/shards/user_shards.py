"""Random access to the user shards, one block of users at a time, directly in the tar files."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transrec.data.shards.bad_samples import BadSample, Skipped
from transrec.data.shards.schema import (
    BLOCKS_FILE,
    CONTEXT_PREFIX,
    LABEL_PREFIX,
    USER_COLUMNS,
    ShardIndex,
    fault_of_impressions,
    fault_of_items,
    user_order_key,
)
from transrec.data.shards.shard_folder import ShardFolder, UnreadableError

CACHED_BLOCKS = 128


@dataclass(frozen=True)
class Shown:
    """The items shown to the users of a block: `items[offsets[u]:offsets[u + 1]]` to user u, in order of time."""

    offsets: NDArray[np.int64]  # (users + 1,)
    items: NDArray[np.int32]  # catalogue indices 1..N
    timestamps: NDArray[np.int64]  # seconds since 1970, ascending within a user
    requests: NDArray[np.int32]  # number, within the user, of the request that showed the item
    labels: Mapping[str, NDArray[np.float32]]  # head (click, …) -> 0 or 1; NaN: not observed
    context: Mapping[str, pa.StringArray]  # column (position, …) -> value; null: unknown

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(users,) number of impressions of each user."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class UserBlock:
    """Histories of consecutive users: user u has `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    user_ids: pa.StringArray
    offsets: NDArray[np.int64]  # (users + 1,)
    items: NDArray[np.int32]  # catalogue indices 1..N
    timestamps: NDArray[np.int64]  # seconds since 1970
    ratings: NDArray[np.float32]  # NaN where the source has none
    profiles: pa.RecordBatch  # the source's user profiles, as strings
    shown: Shown | None  # None: the set records no impressions

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(users,) length of each history."""
        return np.diff(self.offsets)

    def history(self, user: int) -> NDArray[np.int32]:
        """All items of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


class UserShards:
    """The users of a shard set, in hash order; blocks in `skipped` are empty."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder, self.index = folder, folder.index
        self.skipped: Skipped = {}
        table = folder.table(BLOCKS_FILE, self.index.blocks_schema)
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self.block_shard = shards.indices.to_numpy().astype(np.int64)
        self._offset, self._bytes, self._crc32 = (np.array(table[name]) for name in ("offset", "bytes", "crc32"))
        self.block_users = pc.list_value_length(table["lengths"]).to_numpy().astype(np.int64)
        del table  # has a length for every user
        pa.default_memory_pool().release_unused()
        self.block = lru_cache(maxsize=CACHED_BLOCKS)(self.read)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.block_users)

    def find(self, user_id: str) -> tuple[int, int]:
        """(block, position in it) of a user, by bisection, because users are sorted by a hash.

        Raises:
            KeyError: no such user.
        """
        wanted, readable = (user_order_key(user_id), user_id), [n for n in range(len(self)) if n not in self.skipped]

        def first_user(number: int) -> tuple[bytes, str]:
            first = self.block(number).user_ids[0].as_py()
            return user_order_key(first), first

        last_not_after = bisect_right(readable, wanted, key=first_user) - 1
        users = self.block(readable[last_not_after]).user_ids.to_pylist() if last_not_after >= 0 else []
        if user_id not in users:
            raise KeyError(user_id)
        return readable[last_not_after], users.index(user_id)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "block"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.block = lru_cache(maxsize=CACHED_BLOCKS)(self.read)

    def skip(self, bad: Skipped) -> None:
        """Read the blocks in `bad` as empty from now on."""
        self.skipped = bad
        self.block.cache_clear()

    def read(self, number: int) -> UserBlock:
        """Block `number`, read from the shard.

        Raises:
            BadSample: the block cannot be read, or does not match the set's index.
        """
        if number in self.skipped:
            return _of_nobody(self.index)
        place = self._names[self.block_shard[number]], int(self._offset[number]), int(self._bytes[number])
        try:
            batch = pa.ipc.open_stream(self.folder.read(*place, int(self._crc32[number]))).read_next_batch()
            batch.validate(full=True)
        except UnreadableError as error:
            raise self.bad(number, error.reason) from None
        except (StopIteration, OSError, pa.ArrowException) as error:
            raise self.bad(number, f"not Arrow: {error}") from None
        if fault := self._fault(number, batch):
            raise self.bad(number, fault)
        return _to_block(batch, self.index)

    def bad(self, number: int, reason: str) -> BadSample:
        """The error for an unreadable block."""
        return BadSample(self.folder, self._names[self.block_shard[number]], f"block {number}", reason)

    def _fault(self, number: int, batch: pa.RecordBatch) -> str | None:
        """A fault in the content, or None: a checksum proves that a block is unchanged, not that it is valid."""
        if batch.schema != self.index.user_schema:
            return f"its columns are {batch.schema.names}"
        users, items, timestamps, ratings = (batch[name] for name in USER_COLUMNS.names)
        values = (users, items, timestamps, ratings, items.flatten(), timestamps.flatten())
        if len(batch) != self.block_users[number] or any(column.null_count for column in values):
            return f"it does not hold {self.block_users[number]} users and their interactions"
        if any(not items.value_lengths().equals(column.value_lengths()) for column in (timestamps, ratings)):
            return "it has different numbers of items, timestamps and ratings"
        return fault_of_items(items, self.index.counts.items) or fault_of_impressions(batch, self.index)


def _to_block(batch: pa.RecordBatch, index: ShardIndex) -> UserBlock:
    """The block in a batch of `index.user_schema`."""
    return UserBlock(
        user_ids=batch["user_id"],
        offsets=_offsets(batch["items"]),
        items=_numbers(batch["items"]),
        timestamps=_numbers(batch["timestamps"]),
        ratings=_numbers(batch["ratings"]),
        profiles=batch.select(index.user_columns),
        shown=_to_shown(batch, index) if index.heads else None,
    )


def _to_shown(batch: pa.RecordBatch, index: ShardIndex) -> Shown:
    return Shown(
        offsets=_offsets(batch["shown"]),
        items=_numbers(batch["shown"]),
        timestamps=_numbers(batch["shown_timestamps"]),
        requests=_numbers(batch["shown_requests"]),
        labels={head: _numbers(batch[LABEL_PREFIX + head]) for head in index.heads},
        context={column: batch[CONTEXT_PREFIX + column].flatten() for column in index.context_columns},
    )


def _offsets(lists: pa.ListArray) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py()
    return offsets


def _numbers(lists: pa.ListArray) -> NDArray[Any]:
    """The elements of all lists; NaN where they are null."""
    numbers: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return numbers


def _of_nobody(index: ShardIndex) -> UserBlock:
    return _to_block(pa.RecordBatch.from_pylist([], index.user_schema), index)
