"""Writes the users: groups the stage task by task and writes the blocks to shards.

Workers group, filter, join and encode. The main process numbers the blocks and writes the tars, which takes little
time and makes the shards independent of how users were divided into tasks. A block does not cross the end of a task.
"""

from collections import Counter
from collections.abc import Sequence
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
from data_tools.histories import Histories, unite_users
from data_tools.impressions import count_apart, group_impressions, heads_of
from data_tools.profiles import Profiles
from data_tools.rejects import RejectLog
from data_tools.shard_writer import ShardWriter
from data_tools.stage import Fragments
from transrec.data.shards.schema import BLOCKS_FILE, BLOCKS_SCHEMA, FileEntry


@dataclass(frozen=True)
class GroupUsers:
    """The task that groups the users of some buckets into blocks."""

    interactions: Fragments
    impressions: Fragments
    profiles: Fragments
    filters: Filters
    schema: pa.Schema  # of the blocks
    n_items: int
    block_users: int
    block_impressions: int
    strict: bool
    core: NDArray[np.bool_] | None = None  # see `find_core`

    def __call__(self, task: tuple[int, range]) -> "Grouped":
        number, buckets = task
        path = self.interactions.folder / f"blocks-{number:06d}"
        users = self._read(buckets)
        with RejectLog(path.with_suffix(".jsonl"), self.strict) as reject:
            profiles = Profiles(self.profiles.read(buckets), reject)
        shown = np.zeros(len(users.histories.user_ids), np.int64) if users.shown is None else users.shown.lengths
        bounds = cut_users(shown, self.block_users, self.block_impressions)
        parts = [each.cut_blocks(bounds) for each in (users.histories, users.shown) if each is not None]
        with path.open("wb") as file:
            sizes = [file.write(_to_ipc_stream(self._join(block, profiles))) for block in zip(*parts, strict=True)]
        return Grouped(
            path=path,
            sizes=sizes,
            lengths=_cut_lengths(users.histories.lengths, bounds),
            shown_lengths=_cut_lengths(shown, bounds) if users.shown is not None else _no_lengths(len(sizes)),
            items=np.unique(users.histories.items, return_counts=True),
            impressions=int(shown.sum()),
            read=users.read,
            dropped=users.dropped,
            rejects=reject.path,
        )

    def _read(self, buckets: range) -> "_Users":
        """The users of some buckets, filtered."""
        read = Histories.group(self.interactions.read(buckets))
        histories, dropped = self.filters.keep_users(read, self.core)
        if not heads_of(self.impressions):
            return _Users(histories, None, len(read.rows), dropped)
        every = group_impressions(self.impressions.read(buckets))
        shown, dropped_shown = self.filters.keep_shown(every, read, histories)
        user_ids = unite_users([histories, shown])
        dropped.update(count_apart(dropped_shown))
        count = len(read.rows) + len(every.rows)
        return _Users(histories.among(user_ids), shown.among(user_ids), count, dropped)

    def _join(self, parts: Sequence[pa.RecordBatch], profiles: Profiles) -> pa.RecordBatch:
        """A block of `schema` from the histories of its users, what they were shown, if known, and their profiles."""
        user_ids = parts[0]["user_id"]
        lists = [column for part in parts for column in part.columns[1:]]
        return pa.RecordBatch.from_arrays([user_ids, *lists, *profiles.of(user_ids)], schema=self.schema)


class _Users(NamedTuple):
    """The filtered rows of the same users."""

    histories: Histories
    shown: Histories | None  # None: the source has no impressions
    read: int  # rows before the filters
    dropped: Counter[str]


class Grouped(NamedTuple):
    """The result of a task: its blocks, one after the other in a file, with their sizes and counts."""

    path: Path
    sizes: list[int]
    lengths: pa.ListArray  # for each block, the interactions of each user
    shown_lengths: pa.ListArray  # for each block, the impressions of each user; empty without impressions
    items: tuple[NDArray[np.int32], NDArray[np.int64]]  # its distinct items, and the interactions of each
    impressions: int
    read: int  # interactions and impressions before the filters
    dropped: Counter[str]
    rejects: Path


class UserShards:
    """Takes the results of the tasks in order; use as a context manager, `entries` is complete when it exits."""

    def __init__(self, folder: Path, shard_bytes: int, n_items: int) -> None:
        self.users = self.impressions = 0
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
        items, counts = grouped.items
        self.items[items] += counts
        self.impressions += grouped.impressions
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
        columns = [*map(pa.array, places), grouped.lengths, grouped.shown_lengths]
        return pa.Table.from_arrays(columns, names=BLOCKS_SCHEMA.names).cast(BLOCKS_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.__exit__(kind, error, trace)
        self._table.close()


def cut_users(shown: NDArray[np.int64], block_users: int, block_impressions: int) -> list[int]:
    """The bounds of blocks of consecutive users: 0, …, the number of users; `shown` (users,) counts impressions.

    A block has at most `block_users` users and `block_impressions` impressions; a user with more has one alone.
    """
    ends = np.cumsum(shown)
    bounds = [0]
    while (first := bounds[-1]) < len(shown):
        before = ends[first] - shown[first]
        fitting = int(np.searchsorted(ends, before + block_impressions, side="right"))
        bounds.append(min(max(fitting, first + 1), first + block_users, len(shown)))
    return bounds


def _cut_lengths(lengths: NDArray[np.int64], bounds: list[int]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(lengths, pa.int32()))


def _no_lengths(blocks: int) -> pa.ListArray:
    return pa.array([[]] * blocks, pa.list_(pa.int32()))


def _to_ipc_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
