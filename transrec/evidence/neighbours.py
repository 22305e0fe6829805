"""A sparse table of item-to-item values on disk: for each item its strongest neighbours.

Shape letters: N items of the catalogue (1..N; row and column 0 are empty), E stored values, n items asked for,
S histories.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.data.batch import ItemSet

_STARTS, _COLUMNS, _VALUES = "starts.npy", "columns.int32", "values.float32"


class Neighbours:
    """The table in `folder`, read through a memory map, so that processes of a node share one copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.starts: NDArray[np.int64] = np.load(folder / _STARTS, mmap_mode="r")  # (N + 2,)
        self.columns = _mapped(folder / _COLUMNS, np.int32)  # (E,), ascending within a row
        self.values = _mapped(folder / _VALUES, np.float32)  # (E,)
        if not len(self.columns) == len(self.values) == self.starts[-1]:
            raise ValueError(
                f"{len(self.columns):,} columns and {len(self.values):,} values, not {self.starts[-1]:,} of each"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Neighbours, (self._folder,)  # a worker maps the files instead of receiving their content

    @property
    def size(self) -> int:
        """N + 1."""
        return len(self.starts) - 1

    def rows(self, items: NDArray[np.int64]) -> sparse.csr_array:
        """The rows of `items` (n,), as an (n, N + 1) matrix in memory."""
        first, counts = self.starts[items], self.starts[items + 1] - self.starts[items]
        starts = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)
        return sparse.csr_array((self.values[places], self.columns[places], starts), shape=(len(items), self.size))


def looked_up(weights: sparse.csr_array, rows: sparse.csr_array) -> sparse.csr_array:
    """`weights` (S, n) @ `rows` (n, N + 1), in time that does not depend on N.

    scipy's product allocates a vector of N + 1 numbers, which costs more than all the rest for a large catalogue, so in
    that case only the nonempty columns are multiplied.
    """
    if rows.shape[1] <= rows.nnz:
        return weights @ rows
    columns, places = np.unique(rows.indices, return_inverse=True)
    found = weights @ sparse.csr_array((rows.data, places, rows.indptr), shape=(rows.shape[0], len(columns)))
    return sparse.csr_array((found.data, columns[found.indices], found.indptr), shape=(weights.shape[0], rows.shape[1]))


def of_items(scores: sparse.csr_array, among: ItemSet) -> sparse.csr_array:
    """`scores` (S, N + 1) with only the entries of items for which `among` is true."""
    every = scores.shape[1] <= scores.nnz  # asking about each item once is less work than about each entry
    kept = among(np.arange(scores.shape[1]))[scores.indices] if every else among(scores.indices)
    starts = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
    return sparse.csr_array((scores.data[kept], scores.indices[kept], starts), shape=scores.shape)


def write_neighbours(folder: Path, pieces: Iterable[sparse.csr_array]) -> None:
    """Write a table whose rows are those of `pieces`, one after the other from row 0."""
    starts = [np.zeros(1, np.int64)]
    with (folder / _COLUMNS).open("wb") as columns, (folder / _VALUES).open("wb") as values:
        for piece in pieces:
            piece.sort_indices()
            starts.append(starts[-1][-1] + piece.indptr[1:].astype(np.int64))
            piece.indices.astype(np.int32).tofile(columns)
            piece.data.astype(np.float32).tofile(values)
    np.save(folder / _STARTS, np.concatenate(starts))


def strongest(table: sparse.csr_array, order_by: NDArray[np.float64], most: int) -> sparse.csr_array:
    """`table` with only the `most` entries of each row that have the largest `order_by`.

    Args:
        order_by: one number for each stored entry; among equal numbers, entries of smaller columns are kept first.
    """
    kept = np.ones(table.nnz, np.bool_)
    for row in np.flatnonzero(np.diff(table.indptr) > most):
        first, last = table.indptr[row], table.indptr[row + 1]
        order = np.lexsort((table.indices[first:last], -order_by[first:last]))
        kept[first + order[most:]] = False
    lengths = np.add.reduceat(np.append(kept, False), table.indptr[:-1]) * (np.diff(table.indptr) > 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((table.data[kept], table.indices[kept], starts), shape=table.shape)


def _mapped(path: Path, dtype: type) -> NDArray[np.generic]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")
