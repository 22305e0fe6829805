"""Reads sequences of item ids in one field, separated by spaces."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.row_files import read_headless_rows
from data_tools.reading.typed_columns import to_strings
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import INTERACTION_COLUMNS, Batch


class Elements(NamedTuple):
    """The elements of a column of sequences, concatenated, with the row and the position in the sequence of each."""

    values: pa.StringArray
    row: np.ndarray
    position: np.ndarray
    lengths: np.ndarray  # of each row's sequence

    def only(self, mask: pa.BooleanArray) -> Self:
        """The elements that are marked, with their original positions."""
        marked = mask.to_numpy(zero_copy_only=False)
        return self._replace(values=self.values.filter(mask), row=self.row[marked], position=self.position[marked])


def split_sequences(column: pa.StringArray) -> Elements:
    """Split the sequences at spaces, leaving out empty elements."""
    lists = pc.split_pattern(column, " ")
    values, row = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    filled = pc.not_equal(values, "")
    values, row = values.filter(filled), row[filled.to_numpy(zero_copy_only=False)]
    lengths = np.bincount(row, minlength=len(column))
    starts = np.cumsum(lengths) - lengths
    return Elements(values, row, np.arange(len(row)) - starts[row], lengths)


def make_interactions(batch: Batch, elements: Elements, timestamps: np.ndarray) -> Batch:
    """One interaction per element, at the given times, with the user in the column `user_id` of its row."""
    rows = pa.array(elements.row)
    columns = [
        batch.rows["user_id"].take(rows),
        elements.values,
        pa.array(timestamps, pa.int64()),
        pa.nulls(len(rows), pa.float32()),
    ]
    interactions = pa.RecordBatch.from_arrays(columns, schema=INTERACTION_COLUMNS)
    return Batch(batch.file, batch.lines.take(rows), interactions)


def read_user_sequences(path: Path, reject: RejectSink) -> Iterator[Batch]:
    """Yield interactions from lines `user<TAB>item item …`, oldest first.

    The data has no times: an item's timestamp is its position, the oldest at 1. A user's second line is rejected,
    because the order of the two is unknown; the ids of all users are held in memory to detect it.
    """
    seen: set[str] = set()
    for raw in read_headless_rows(path, ["user_id", "items"], reject):
        batch = without_repeats(to_strings(raw, "user_id", reject), seen, reject)
        elements = split_sequences(batch.rows["items"])
        yield make_interactions(batch, elements, elements.position + 1)


def without_repeats(batch: Batch, seen: set[str], reject: RejectSink) -> Batch:
    """The rows of users that are not in `seen`, to which they are added; the others are rejected."""
    keep = np.ones(len(batch.rows), bool)
    for row, user_id in enumerate(batch.rows["user_id"].to_pylist()):
        if user_id in seen:
            keep[row] = False
            detail = f"user {user_id!r} already has a sequence"
            reject(Reject(batch.file, batch.lines[row].as_py(), Reason.DUPLICATE_USER, detail))
        seen.add(user_id)
    kept = pa.array(keep)
    return Batch(batch.file, batch.lines.filter(kept), batch.rows.filter(kept))
