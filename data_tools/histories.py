"""Rows of users (interactions, or impressions) grouped by user and ordered by time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transrec.data.shards.schema import user_order_key


@dataclass(frozen=True)
class Histories:
    """Users in their final order; the rows of user u are `starts[u]:starts[u + 1]`, in order of time."""

    user_ids: pa.StringArray
    starts: NDArray[np.int64]  # (users + 1,)
    rows: pa.RecordBatch

    @classmethod
    def group(cls, table: pa.Table) -> Self:
        """Group a table with the columns `user_id`, `timestamp` and others.

        Users are in ascending order of (`user_order_key`, id). A user's rows are in order of time; those with equal
        times keep their order in the table.
        """
        user_ids, user_of_row = _rank_users(table["user_id"])
        order = np.lexsort((table["timestamp"].to_numpy(), user_of_row))  # stable
        columns = table.drop_columns("user_id")
        rows = [column.combine_chunks().take(pa.array(order)) for column in columns.columns]
        return cls(
            user_ids=user_ids,
            starts=_starts(np.bincount(user_of_row, minlength=len(user_ids))),
            rows=pa.RecordBatch.from_arrays(rows, schema=columns.schema),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def items(self) -> NDArray[np.int32]:
        """(rows,) item indices."""
        items: NDArray[np.int32] = self.rows["item"].to_numpy()
        return items

    @property
    def owners(self) -> NDArray[np.int64]:
        """(rows,) position of the user of each row."""
        return np.repeat(np.arange(len(self.user_ids)), self.lengths)

    def keep(self, rows: NDArray[np.bool_]) -> Self:
        """The histories with only the rows that are marked and only the users who have any of them."""
        lengths = np.diff(_starts(rows)[self.starts])
        return type(self)(
            user_ids=self.user_ids.filter(pa.array(lengths > 0)),
            starts=_starts(lengths[lengths > 0]),
            rows=self.rows.filter(pa.array(rows)),
        )

    def keep_users(self, users: NDArray[np.bool_]) -> Self:
        return self.keep(np.repeat(users, self.lengths))

    def among(self, user_ids: pa.StringArray) -> Self:
        """The histories of these users, a superset of `self.user_ids` in final order; users without rows get none."""
        lengths = np.zeros(len(user_ids), np.int64)
        lengths[pc.index_in(self.user_ids, user_ids).to_numpy()] = self.lengths
        return replace(self, user_ids=user_ids, starts=_starts(lengths))

    def cut_blocks(self, bounds: Iterable[int]) -> Iterator[pa.RecordBatch]:
        """Yield the users between consecutive bounds: batches of `user_id` and a list column for each column."""
        for first, stop in pairwise(bounds):
            starts = self.starts[first : stop + 1]
            rows = self.rows.slice(starts[0], starts[-1] - starts[0])
            offsets = pa.array(starts - starts[0], pa.int32())
            lists = [pa.ListArray.from_arrays(offsets, column) for column in rows.columns]
            yield pa.RecordBatch.from_arrays(
                [self.user_ids.slice(first, stop - first), *lists], ["user_id", *rows.schema.names]
            )


def unite_users(histories: Iterable[Histories]) -> pa.StringArray:
    """All users of several histories, in their final order."""
    return _rank_users(pa.chunked_array([each.user_ids for each in histories], pa.string()))[0]


def _rank_users(column: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int64]]:
    """Distinct user ids in final order, and each row's position among them."""
    encoded = column.combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=lambda code: (user_order_key(found[code]), found[code]))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return encoded.dictionary.take(pa.array(order, pa.int64())), rank[encoded.indices.to_numpy()]


def _starts(lengths: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
