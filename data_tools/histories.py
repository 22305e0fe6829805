"""Histories: interactions grouped by user and ordered by time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transrec.data.shards.schema import USER_COLUMNS, user_order_key

INDEXED_COLUMNS = pa.schema(
    [("user_id", pa.string()), ("item", pa.int32()), ("timestamp", pa.int64()), ("rating", pa.float32())]
)


@dataclass(frozen=True)
class Histories:
    """Users in their final order; the interactions of user u are `starts[u]:starts[u + 1]`."""

    user_ids: pa.StringArray
    starts: NDArray[np.int64]  # (users + 1,)
    items: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    ratings: NDArray[np.float32]
    unrated: NDArray[np.bool_]

    @classmethod
    def group(cls, table: pa.Table) -> Self:
        """Group a table of `INDEXED_COLUMNS`.

        Users are in ascending order of (`user_order_key`, id). A user's interactions are in order of time; those with
        equal times keep their order in the table.
        """
        user_ids, user_of_row = _rank_users(table["user_id"])
        timestamps, ratings = table["timestamp"].to_numpy(), table["rating"]
        order = np.lexsort((timestamps, user_of_row))  # stable
        return cls(
            user_ids=user_ids,
            starts=_starts(np.bincount(user_of_row, minlength=len(user_ids))),
            items=table["item"].to_numpy()[order],
            timestamps=timestamps[order],
            ratings=ratings.fill_null(0).to_numpy()[order],
            unrated=ratings.is_null().to_numpy()[order],
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def keep(self, rows: NDArray[np.bool_]) -> Self:
        """The histories with only the interactions that `rows` marks and only the users who have any of them."""
        lengths = np.diff(_starts(rows)[self.starts])
        return type(self)(
            user_ids=self.user_ids.filter(pa.array(lengths > 0)),
            starts=_starts(lengths[lengths > 0]),
            items=self.items[rows],
            timestamps=self.timestamps[rows],
            ratings=self.ratings[rows],
            unrated=self.unrated[rows],
        )

    def keep_users(self, users: NDArray[np.bool_]) -> Self:
        return self.keep(np.repeat(users, self.lengths))

    def cut_blocks(self, block_users: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of `USER_COLUMNS` with `block_users` users each; the last may have fewer."""
        for first in range(0, len(self.user_ids), block_users):
            user_ids = self.user_ids.slice(first, block_users)
            starts = self.starts[first : first + len(user_ids) + 1]
            rows = slice(starts[0], starts[-1])
            values = [
                pa.array(self.items[rows]),
                pa.array(self.timestamps[rows]),
                pa.array(self.ratings[rows], mask=self.unrated[rows]),
            ]
            offsets = pa.array(starts - starts[0], pa.int32())
            lists = [pa.ListArray.from_arrays(offsets, column) for column in values]
            yield pa.RecordBatch.from_arrays([user_ids, *lists], schema=USER_COLUMNS)


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
