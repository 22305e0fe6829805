"""A sparse table of item-to-item values on disk, with the strongest neighbours of each item.

Shape letters: N items of the catalogue (1..N; row and column 0 are empty), E stored values, n items asked for,
S histories.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.data.batch import ItemSet
from transrec.work import PARTS_FOLDER, Advance, PartWriter

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
                f"it holds {len(self.columns):,} columns and {len(self.values):,} values, but should hold "
                f"{self.starts[-1]:,} of each"
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


class NeighbourWork:
    """The work of filling the folder of a table, in parts that are ranges of rows."""

    unit, total_bytes = "items", 0  # the size is unknown before the table is made

    def __init__(self, name: str, lengths: Sequence[int], rows: Callable[[int], sparse.csr_array]) -> None:
        """
        Args:
            lengths: number of rows of each part; the parts follow each other from row 0 to row N.
            rows: returns the rows of a part.
        """
        self.name, self.sizes, self._rows = f"evidence {name}", lengths, rows

    def begin(self, folder: Path) -> None: ...

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        """Write the rows of a part to files of its own."""
        rows = self._rows(part)
        rows.sort_indices()
        counts, columns, values = np.diff(rows.indptr).astype(np.int64), rows.indices.astype(np.int32), rows.data
        for name, numbers in ((_STARTS, counts), (_COLUMNS, columns), (_VALUES, values.astype(np.float32))):
            with out.file(_of_part(part, name)) as write:
                write(numbers.data)
        advance(self.sizes[part])

    def finish(self, folder: Path) -> None:
        parts = range(len(self.sizes))
        counts = [np.fromfile(folder / _of_part(part, _STARTS), np.int64) for part in parts]
        np.save(folder / _STARTS, np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts])))
        for name in (_COLUMNS, _VALUES):
            with (folder / name).open("wb") as whole:
                for part in parts:
                    with (folder / _of_part(part, name)).open("rb") as file:
                        shutil.copyfileobj(file, whole)


def strongest(table: sparse.csr_array, order_by: NDArray[np.float64], most: int) -> sparse.csr_array:
    """`table` with only the `most` entries of each row that have the largest `order_by`.

    Args:
        table: with ascending columns in each row.
        order_by: one number for each stored entry; among equal numbers, those of smaller columns are kept.
    """
    kept = np.ones(table.nnz, np.bool_)
    for row in np.flatnonzero(np.diff(table.indptr) > most):
        first, last = table.indptr[row], table.indptr[row + 1]
        numbers = order_by[first:last]
        least = np.partition(numbers, len(numbers) - most)[len(numbers) - most]
        equal = np.flatnonzero(numbers == least)
        kept[first:last] = numbers >= least
        kept[first + equal[most - np.count_nonzero(numbers > least) :]] = False
    lengths = np.add.reduceat(np.append(kept, False), table.indptr[:-1]) * (np.diff(table.indptr) > 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((table.data[kept], table.indices[kept], starts), shape=table.shape)


def _mapped(path: Path, dtype: type) -> NDArray[np.generic]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _of_part(part: int, name: str) -> str:
    return f"{PARTS_FOLDER}/{part:06d}.{name}"
