"""Writes the users: groups the stage task by task and writes the blocks to shards.

Workers group, filter, join and encode. The main process numbers the blocks and writes the tars, which takes a small
part of the time and fills the shards whatever the tasks are. A block does not cross the end of a task.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_tools.filters import Filters
from data_tools.histories import Histories
from data_tools.profiles import Profiles
from data_tools.rejects import RejectLog
from data_tools.shard_writer import ShardWriter
from data_tools.stage import Fragments
from transrec.data.shards.schema import BLOCKS_FILE, BLOCKS_SCHEMA, FileEntry


@dataclass(frozen=True)
class GroupUsers:
    """The task that groups the users of some buckets into blocks."""

    interactions: Fragments
    profiles: Fragments
    filters: Filters
    n_items: int
    block_users: int
    strict: bool
    core: NDArray[np.bool_] | None = None  # see `find_core`

    def __call__(self, task: tuple[int, range]) -> "Grouped":
        number, buckets = task
        path = self.interactions.folder / f"blocks-{number:06d}"
        read = Histories.group(self.interactions.read(buckets))
        histories, dropped = self.filters.keep_users(read, self.core)
        with RejectLog(path.with_suffix(".jsonl"), self.strict) as reject:
            profiles = Profiles(self.profiles.read(buckets), reject)
        with path.open("wb") as file:
            blocks = histories.cut_blocks(self.block_users)
            sizes = [file.write(_to_ipc_stream(profiles.join(block))) for block in blocks]
        return Grouped(
            path=path,
            sizes=sizes,
            lengths=_cut_lengths(histories.lengths, self.block_users),
            items=np.bincount(histories.items, minlength=self.n_items + 1),
            read=len(read.items),
            dropped=dropped,
            rejects=reject.path,
        )


class Grouped(NamedTuple):
    """The result of a task: its blocks, one after the other in a file, with their sizes and counts."""

    path: Path
    sizes: list[int]
    lengths: pa.ListArray  # for each block, the interactions of each user
    items: NDArray[np.int64]  # interactions of each item, by index
    read: int  # interactions before the filters
    dropped: Counter[str]
    rejects: Path


class UserShards:
    """Takes the results of the tasks in order; use as a context manager, `entries` is complete when it exits."""

    def __init__(self, folder: Path, shard_bytes: int, n_items: int) -> None:
        self.users = 0
        self.items = np.zeros(n_items + 1, np.int64)  # interactions of each item, by index
        self.dropped: Counter[str] = Counter()
        self._blocks = 0
        self._shards = ShardWriter(folder, "users", shard_bytes)
        self._table = pq.ParquetWriter(folder / BLOCKS_FILE, BLOCKS_SCHEMA, compression="zstd")

    @property
    def entries(self) -> list[FileEntry]:
        return self._shards.entries

    def add(self, grouped: Grouped) -> None:
        """Write the blocks to shards and remove the file that held them."""
        if grouped.sizes:
            self._table.write_table(self._write_blocks(grouped))
        self.items += grouped.items
        self.dropped.update(grouped.dropped)
        grouped.path.unlink()

    def _write_blocks(self, grouped: Grouped) -> pa.Table:
        users = grouped.lengths.value_lengths().to_pylist()
        placed = []
        with grouped.path.open("rb") as file:
            for size, samples in zip(grouped.sizes, users, strict=True):
                placed += self._shards.write([(f"{self._blocks:09d}.arrow", file.read(size))], samples)
                self._blocks += 1
        self.users += sum(users)
        places = [list(column) for column in zip(*placed, strict=True)]
        return pa.Table.from_arrays([*map(pa.array, places), grouped.lengths], names=BLOCKS_SCHEMA.names).cast(
            BLOCKS_SCHEMA
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.__exit__(kind, error, trace)
        self._table.close()


def _cut_lengths(lengths: NDArray[np.int64], block_users: int) -> pa.ListArray:
    ends = np.minimum(np.arange(0, len(lengths) + block_users, block_users), len(lengths))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(lengths, pa.int32()))


def _to_ipc_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
