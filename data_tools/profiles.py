"""User profiles: the columns that follow `USER_COLUMNS`."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.sources.source import Batch, SourceError
from transrec.data.schema import USER_COLUMNS


class Profiles:
    """All profiles, by user id; `schema` is that of a user record batch with them."""

    def __init__(self, batches: Iterable[Batch], reject: RejectSink) -> None:
        self._row_of: dict[str, int] = {}
        kept = [self._take_new_users(batch, reject) for batch in batches]
        self._table = pa.Table.from_batches(kept).combine_chunks() if kept else None
        self.columns: list[str] = [name for name in kept[0].schema.names if name != "user_id"] if kept else []
        if clash := set(self.columns) & set(USER_COLUMNS.names):
            raise SourceError(f"user profile columns must not be called {', '.join(sorted(clash))}: rename them")
        self.schema = pa.schema([*USER_COLUMNS, *[(name, pa.string()) for name in self.columns]])

    def join(self, users: pa.RecordBatch) -> pa.RecordBatch:
        """Add the profile columns to a batch of `USER_COLUMNS`; null for a user without profile."""
        rows = pa.array([self._row_of.get(user_id) for user_id in users["user_id"].to_pylist()], pa.int64())
        profiles = [self._table[name].take(rows).combine_chunks() for name in self.columns] if self._table else []
        return pa.RecordBatch.from_arrays([*users.columns, *profiles], schema=self.schema)

    def _take_new_users(self, batch: Batch, reject: RejectSink) -> pa.RecordBatch:
        keep = np.ones(len(batch.rows), bool)
        for row, user_id in enumerate(batch.rows["user_id"].to_pylist()):
            if user_id in self._row_of:
                keep[row] = False
                detail = f"user {user_id!r} already has a profile"
                reject(Reject(batch.file, batch.lines[row].as_py(), Reason.DUPLICATE_USER, detail))
            else:
                self._row_of[user_id] = len(self._row_of)
        return batch.rows.filter(pa.array(keep))
