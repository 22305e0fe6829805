"""Keeps the first row with each value of a column, for items and users that a format names only in its interactions."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from data_tools.source import Batch


def first_rows(batches: Iterable[Batch], column: str) -> Iterator[Batch]:
    """Yield the first row with each value of a column of strings; the values seen so far are kept in memory."""
    seen: set[str] = set()
    for batch in batches:
        values = batch.rows[column].to_pylist()
        first = np.zeros(len(values), bool)
        for row, value in enumerate(values):
            first[row] = value not in seen
            seen.add(value)
        kept = pa.array(first)
        yield Batch(batch.file, batch.lines.filter(kept), batch.rows.filter(kept))
