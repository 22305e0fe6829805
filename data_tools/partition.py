"""Groups interactions by user and orders them by time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transrec.data.schema import USER_COLUMNS, user_order_key

INDEXED_COLUMNS = pa.schema(
    [("user_id", pa.string()), ("item", pa.int32()), ("timestamp", pa.int64()), ("rating", pa.float32())]
)


class UserBlocks(NamedTuple):
    users: int
    blocks: Iterator[pa.RecordBatch]


def group_by_user(batches: Iterable[pa.RecordBatch], block_users: int) -> UserBlocks:
    """Turn batches of `INDEXED_COLUMNS` into batches of `USER_COLUMNS` with `block_users` users each.

    Users come in ascending order of (`user_order_key`, id); a user's interactions in order of time, those of
    equal time in the order given. Holds all interactions in memory.
    """
    table = pa.Table.from_batches(batches, INDEXED_COLUMNS)
    user_ids, user_of_row = _rank_users(table["user_id"])
    timestamps = table["timestamp"].to_numpy()
    order = np.lexsort((timestamps, user_of_row))  # stable
    ratings = table["rating"]
    rows = _SortedRows(
        starts=np.concatenate([[0], np.cumsum(np.bincount(user_of_row, minlength=len(user_ids)))]),
        items=table["item"].to_numpy()[order],
        timestamps=timestamps[order],
        ratings=ratings.fill_null(0).to_numpy()[order],
        unrated=ratings.is_null().to_numpy()[order],
    )
    firsts = range(0, len(user_ids), block_users)
    blocks = (_make_block(user_ids, rows, first, first + block_users) for first in firsts)
    return UserBlocks(len(user_ids), blocks)


class _SortedRows(NamedTuple):
    """Interactions in final order; those of user u are `starts[u]:starts[u + 1]`."""

    starts: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    unrated: np.ndarray


def _rank_users(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Distinct user ids in final order, and each row's position among them."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return [], np.zeros(0, np.int64)
    found = encoded.chunk(0).dictionary.to_pylist()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    order = sorted(range(len(found)), key=lambda code: (user_order_key(found[code]), found[code]))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return [found[code] for code in order], rank[codes]


def _make_block(user_ids: list[str], rows: _SortedRows, first: int, last: int) -> pa.RecordBatch:
    ids = user_ids[first:last]
    starts = rows.starts[first : first + len(ids) + 1]
    inside = slice(starts[0], starts[-1])
    offsets = pa.array(starts - starts[0], pa.int32())
    values = [
        pa.array(rows.items[inside]),
        pa.array(rows.timestamps[inside]),
        pa.array(rows.ratings[inside], mask=rows.unrated[inside]),
    ]
    lists = [pa.ListArray.from_arrays(offsets, column) for column in values]
    return pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), *lists], schema=USER_COLUMNS)
