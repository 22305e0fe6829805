"""Random access to the user shards, one block of users at a time, directly in the tar files."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transrec.data.shards.bad_samples import BadSample, Skipped
from transrec.data.shards.schema import BLOCKS_FILE, BLOCKS_SCHEMA, USER_COLUMNS, user_order_key
from transrec.data.shards.shard_folder import ShardFolder, UnreadableError

CACHED_BLOCKS = 128


@dataclass(frozen=True)
class UserBlock:
    """Histories of consecutive users: user u has `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    user_ids: pa.StringArray
    offsets: NDArray[np.int64]  # (users + 1,)
    items: NDArray[np.int32]  # catalogue indices 1..N
    timestamps: NDArray[np.int64]  # seconds since 1970
    ratings: NDArray[np.float32]  # NaN where the source has none
    profiles: pa.RecordBatch  # the source's user profiles, as strings

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
        table = folder.table(BLOCKS_FILE, BLOCKS_SCHEMA)
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
            return _NOBODY
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
        items, timestamps = batch.column("items"), batch.column("timestamps")
        return UserBlock(
            user_ids=batch.column("user_id"),
            offsets=items.offsets.to_numpy().astype(np.int64) - items.offsets[0].as_py(),
            items=items.flatten().to_numpy(zero_copy_only=False),
            timestamps=timestamps.flatten().to_numpy(zero_copy_only=False),
            ratings=batch.column("ratings").flatten().to_numpy(zero_copy_only=False),
            profiles=batch.select(batch.schema.names[len(USER_COLUMNS) :]),
        )

    def bad(self, number: int, reason: str) -> BadSample:
        """The error for an unreadable block."""
        return BadSample(self.folder, self._names[self.block_shard[number]], f"block {number}", reason)

    def _fault(self, number: int, batch: pa.RecordBatch) -> str | None:
        """A fault in the content, or None: a checksum proves that a block is unchanged, not that it is valid."""
        profiles = [pa.field(name, pa.string()) for name in self.index.user_columns]
        fields = list(batch.schema)
        if fields[: len(USER_COLUMNS)] != list(USER_COLUMNS) or fields[len(USER_COLUMNS) :] != profiles:
            return f"its columns are {batch.schema.names}"
        users, items, timestamps, ratings = batch.columns[: len(USER_COLUMNS)]
        values = (users, items, timestamps, ratings, items.flatten(), timestamps.flatten())
        if len(batch) != self.block_users[number] or any(column.null_count for column in values):
            return f"it does not hold {self.block_users[number]} users and their interactions"
        if any(not items.value_lengths().equals(column.value_lengths()) for column in (timestamps, ratings)):
            return "it has different numbers of items, timestamps and ratings"
        bounds = pc.min_max(items.flatten()).as_py()
        if bounds["min"] is not None and not 1 <= bounds["min"] <= bounds["max"] <= self.index.counts.items:
            return f"it has items {bounds['min']} to {bounds['max']}, not 1 to {self.index.counts.items}"
        return None


_NOBODY = UserBlock(
    pa.array([], pa.string()),
    np.zeros(1, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
    np.zeros(0, np.float32),
    pa.record_batch({}),
)
