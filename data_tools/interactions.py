"""Puts item indices in place of item ids, rejects interactions with unknown items, and counts the rest."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.partition import INDEXED_COLUMNS
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.sources.source import Batch


class ItemIndexer:
    """`counts` holds the interactions of each item seen so far, in index order."""

    def __init__(self, item_ids: list[str], reject: RejectSink) -> None:
        self.counts = np.zeros(len(item_ids), np.int64)
        self._item_ids = pa.array(item_ids, pa.string())
        self._reject = reject

    def index(self, batches: Iterable[Batch]) -> Iterator[pa.RecordBatch]:
        """Turn batches of `INTERACTION_COLUMNS` into batches of `INDEXED_COLUMNS`."""
        for batch in batches:
            rows = batch.rows
            positions = pc.index_in(rows["item_id"], self._item_ids)
            for row in np.flatnonzero(positions.is_null().to_numpy(zero_copy_only=False)):
                detail = f"item {rows['item_id'][row].as_py()!r} is not in the catalogue"
                self._reject(Reject(batch.file, batch.lines[row].as_py(), Reason.UNKNOWN_ITEM, detail))
            known = positions.is_valid()
            items = pc.add(positions.filter(known), pa.scalar(1, pa.int32()))
            rows = rows.filter(known)
            self.counts += np.bincount(items.to_numpy() - 1, minlength=len(self.counts))
            columns = [rows["user_id"], items, rows["timestamp"], rows["rating"]]
            yield pa.RecordBatch.from_arrays(columns, schema=INDEXED_COLUMNS)
