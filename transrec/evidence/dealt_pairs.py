"""Pairs of items, distributed to files by the range of their first item, so that each file is counted by itself.

Designs considered for counting pairs. Adding the pairs of each block of users to one matrix: every block copies the
whole matrix. Sorting all pairs in memory: 8 bytes or more for each. Reading all sequences once for each range of items:
the less memory, the more passes, so time grows with the square of the interactions. Chosen: files, so that time is
linear in the pairs and memory is bounded.

Shape letters: P pairs.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST_FILES = 200
BYTES = 4  # of a number of a pair


def deal(folder: Path, pairs: Iterable[tuple[Ints, ...]], ends: Ints) -> None:
    """Write each pair to the file of the range that its first item is in; range n ends before item `ends[n]`.

    Args:
        pairs: columns (P,) of some pairs at a time: the first item, and any numbers that fit into 32 bits.
    """
    with ExitStack() as opened:
        files = [opened.enter_context((folder / str(number)).open("wb")) for number in range(len(ends))]
        for columns in pairs:
            part = np.searchsorted(ends, columns[0], side="right")
            order = np.argsort(part, kind="stable")
            rows = np.stack(columns, axis=1).astype(np.int32)[order]
            cuts = np.searchsorted(part[order], np.arange(len(ends) + 1))
            for file, start, stop in zip(files, cuts[:-1], cuts[1:], strict=True):
                rows[start:stop].tofile(file)


def read_dealt(folder: Path, number: int, width: int) -> tuple[Ints, ...]:
    """The `width` columns (P,) of the pairs of a range, in the order in which they were dealt."""
    rows = np.fromfile(folder / str(number), np.int32).reshape(-1, width)
    return tuple(rows[:, column].astype(np.int64) for column in range(width))
