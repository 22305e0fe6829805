"""Random access to the user shards, a block of users at a time, straight out of the tar."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transrec.data.schema import BLOCKS_FILE, INDEX_FILE, ShardIndex, ShardSetError, user_order_key

_CACHED_BLOCKS = 128


@dataclass(frozen=True)
class UserBlock:
    """Histories of consecutive users: those of user u are `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    user_ids: pa.StringArray
    offsets: NDArray[np.int64]  # (users + 1,)
    items: NDArray[np.int32]  # catalogue indices 1..N
    timestamps: NDArray[np.int64]  # seconds since 1970

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def history(self, user: int) -> NDArray[np.int32]:
        return self.items[self.offsets[user] : self.offsets[user + 1]]


class UserShards:
    """The users of a shard set, in hash order."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.index = ShardIndex.load(self.folder)
        self.index_sha256 = hashlib.sha256((self.folder / INDEX_FILE).read_bytes()).hexdigest()
        try:
            table = pq.read_table(self.folder / BLOCKS_FILE)
        except (OSError, pa.ArrowInvalid) as error:
            raise ShardSetError(f"{self.folder / BLOCKS_FILE} cannot be read ({error}); rebuild the shards") from None
        self._shards: list[str] = table["shard"].to_pylist()
        self._offsets: list[int] = table["offset"].to_pylist()
        self._bytes: list[int] = table["bytes"].to_pylist()
        self.block_users = pc.list_value_length(table["lengths"]).to_numpy().astype(np.int64)
        names = {name: i for i, name in enumerate(dict.fromkeys(self._shards))}
        self.block_shard = np.array([names[shard] for shard in self._shards], np.int64)
        self.block = lru_cache(maxsize=_CACHED_BLOCKS)(self._read)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.block_users)

    def find(self, user_id: str) -> tuple[int, int]:
        """(block, position in it) of a user, by bisection: users lie in the order of a hash.

        Raises:
            KeyError: no such user.
        """
        wanted = (user_order_key(user_id), user_id)
        low, high = 0, len(self)  # the last block whose first user is not after the wanted one
        while high - low > 1:
            middle = (low + high) // 2
            first = self.block(middle).user_ids[0].as_py()
            low, high = (middle, high) if (user_order_key(first), first) <= wanted else (low, middle)
        users = self.block(low).user_ids.to_pylist()
        if user_id not in users:
            raise KeyError(user_id)
        return low, users.index(user_id)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "block"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.block = lru_cache(maxsize=_CACHED_BLOCKS)(self._read)

    def _read(self, number: int) -> UserBlock:
        path = self.folder / self._shards[number]
        try:
            with path.open("rb") as shard:
                shard.seek(self._offsets[number])
                batch = pa.ipc.open_stream(shard.read(self._bytes[number])).read_next_batch()
        except (OSError, StopIteration, pa.ArrowInvalid) as error:
            raise ShardSetError(
                f"{path}: block {number} cannot be read ({error}); "
                f"check the set with `python -m data_tools verify {self.folder}`"
            ) from None
        items, timestamps = batch.column("items"), batch.column("timestamps")
        return UserBlock(
            user_ids=batch.column("user_id"),
            offsets=items.offsets.to_numpy().astype(np.int64) - items.offsets[0].as_py(),
            items=items.flatten().to_numpy(zero_copy_only=False),
            timestamps=timestamps.flatten().to_numpy(zero_copy_only=False),
        )
