"""Writes interactions and impressions to the stage: replaces item ids by indices, rejects unknown items and filters."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from data_tools.executor import Executor
from data_tools.filters import Filters
from data_tools.pieces import Piece, cut_pieces
from data_tools.progress import step
from data_tools.rejects import Reason, RejectLog
from data_tools.source import Batch
from data_tools.stage import BUCKETS, Fragments, fragment_path, write_fragment

_ITEM_IDS = "item_ids.arrow"


@dataclass(frozen=True)
class RowStage:
    """Writes rows to the stage, after `write_item_ids` has written the ids there."""

    folder: Path
    executor: Executor
    reject: RejectLog

    def write(
        self, name: str, batches: Iterable[Batch], columns: pa.Schema, filters: Filters, total: int | None
    ) -> tuple[Fragments, Counter[str]]:
        """Write batches as fragments called `name`; return them and how many rows each filter drops.

        Args:
            batches: with the columns `user_id`, `item_id`, `timestamp` and others. Fragments have `item`, the index, in
                place of `item_id`.
            columns: the columns that batches would have, for a source without any.
            total: expected number of rows.
        """
        rows, dropped, rejects, schema = np.zeros(BUCKETS, np.int64), Counter[str](), [], indexed(columns)
        spill = _Spill(name, self.folder, filters, self.reject.strict)
        with step(name, total) as advance:
            for spilled in self.executor.map(spill, cut_pieces(batches)):
                rows += spilled.rows
                dropped.update(spilled.dropped)
                rejects.append(spilled.rejects)
                schema = spilled.schema
                advance(spilled.read)
        for path in rejects:  # after the rejects of the source, which is read ahead
            self.reject.take_over(path)
        return Fragments(self.folder, name, schema, rows, len(rejects)), dropped


def indexed(columns: pa.Schema) -> pa.Schema:
    """The columns with `item`, an index, in place of `item_id`."""
    return columns.set(columns.get_field_index("item_id"), pa.field("item", pa.int32()))


def write_item_ids(item_ids: list[str], stage: Path) -> None:
    """Write the ids to the stage, in the order of their indices."""
    batch = pa.RecordBatch.from_arrays([pa.array(item_ids, pa.string())], ["item_id"])
    with pa.OSFile(str(stage / _ITEM_IDS), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


class _Spilled(NamedTuple):
    read: int
    rows: NDArray[np.int64]
    schema: pa.Schema
    dropped: Counter[str]
    rejects: Path


@dataclass(frozen=True)
class _Spill:
    name: str
    stage: Path
    filters: Filters
    strict: bool

    def __call__(self, piece: Piece) -> _Spilled:
        path = fragment_path(self.stage, self.name, piece.number)
        with RejectLog(path.with_suffix(".jsonl"), self.strict) as reject:
            rows = _index_items(piece, _read_item_ids(self.stage), reject)
        rows, dropped = self.filters.keep_rows(rows)
        return _Spilled(piece.ends[-1], write_fragment(rows, path), rows.schema, dropped, reject.path)


def _index_items(piece: Piece, item_ids: pa.StringArray, reject: RejectLog) -> pa.RecordBatch:
    """The rows of a piece with indices in place of item ids; `item_ids` are in index order."""
    rows = piece.unpack()
    columns = rows.columns
    positions = pc.index_in(columns["item_id"], item_ids)
    for row in np.flatnonzero(positions.is_null().to_numpy(zero_copy_only=False)):
        detail = f"item {columns['item_id'][row].as_py()!r} is not in the catalogue"
        reject(rows.reject(int(row), Reason.UNKNOWN_ITEM, detail))
    place = columns.schema.get_field_index("item_id")
    arrays = [*columns.columns[:place], pc.add(positions, pa.scalar(1, pa.int32())), *columns.columns[place + 1 :]]
    found = pa.RecordBatch.from_arrays(arrays, schema=indexed(columns.schema))
    return found.filter(positions.is_valid()) if positions.null_count else found


def _read_item_ids(stage: Path) -> pa.StringArray:
    with pa.OSFile(str(stage / _ITEM_IDS)) as file:
        return pa.ipc.open_file(file).get_batch(0)["item_id"]
