"""Writes interactions to the stage: replaces item ids by indices, rejects unknown items and filters rows."""

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
from data_tools.histories import INDEXED_COLUMNS
from data_tools.pieces import Piece, cut_pieces
from data_tools.progress import Advance
from data_tools.rejects import Reason, RejectLog
from data_tools.sources.source import Batch
from data_tools.stage import BUCKETS, Fragments, fragment_path, write_fragment

_NAME = "interactions"
_ITEM_IDS = "item_ids.arrow"


def stage_interactions(
    batches: Iterable[Batch],
    item_ids: list[str],
    filters: Filters,
    stage: Path,
    reject: RejectLog,
    executor: Executor,
    advance: Advance,
) -> tuple[Fragments, Counter[str]]:
    """Write batches of `INTERACTION_COLUMNS` as fragments of `INDEXED_COLUMNS`; return them and the dropped counts."""
    _write_item_ids(item_ids, stage / _ITEM_IDS)
    rows, dropped, rejects = np.zeros(BUCKETS, np.int64), Counter[str](), []
    for spilled in executor.map(_Spill(stage, filters, reject.strict), cut_pieces(batches)):
        rows += spilled.rows
        dropped.update(spilled.dropped)
        rejects.append(spilled.rejects)
        advance(spilled.read)
    for path in rejects:  # after the rejects of the source, which is read ahead
        reject.take_over(path)
    return Fragments(stage, _NAME, INDEXED_COLUMNS, rows, len(rejects)), dropped


class _Spilled(NamedTuple):
    read: int
    rows: NDArray[np.int64]
    dropped: Counter[str]
    rejects: Path


@dataclass(frozen=True)
class _Spill:
    stage: Path
    filters: Filters
    strict: bool

    def __call__(self, piece: Piece) -> _Spilled:
        path = fragment_path(self.stage, _NAME, piece.number)
        with RejectLog(path.with_suffix(".jsonl"), self.strict) as reject:
            rows = index_items(piece, _read_item_ids(self.stage / _ITEM_IDS), reject)
        rows, dropped = self.filters.keep_rows(rows)
        return _Spilled(piece.ends[-1], write_fragment(rows, path), dropped, reject.path)


def index_items(piece: Piece, item_ids: pa.StringArray, reject: RejectLog) -> pa.RecordBatch:
    """Convert rows of `INTERACTION_COLUMNS` to rows of `INDEXED_COLUMNS`; `item_ids` are in index order."""
    rows = piece.unpack()
    columns = rows.columns
    positions = pc.index_in(columns["item_id"], item_ids)
    for row in np.flatnonzero(positions.is_null().to_numpy(zero_copy_only=False)):
        detail = f"item {columns['item_id'][row].as_py()!r} is not in the catalogue"
        reject(rows.reject(int(row), Reason.UNKNOWN_ITEM, detail))
    indices = pc.add(positions, pa.scalar(1, pa.int32()))
    indexed = pa.RecordBatch.from_arrays(
        [columns["user_id"], indices, columns["timestamp"], columns["rating"]], schema=INDEXED_COLUMNS
    )
    return indexed.filter(positions.is_valid()) if positions.null_count else indexed


def _write_item_ids(item_ids: list[str], path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(item_ids, pa.string())], ["item_id"])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read_item_ids(path: Path) -> pa.StringArray:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).get_batch(0)["item_id"]
