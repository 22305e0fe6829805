"""Sequences of different lengths, end to end in one array: where each lies, and how some are cut into encoder passes.

A sequence is padded to the same length in every batch, whoever is beside it: to the next of a few lengths, each four
fifths of the one before, none of fewer than four positions. So an item's states are the same numbers wherever they are
computed, a cache of them is exact, and a device sees few shapes. The least length is for a chunk of a single short
text: a matrix product of one to three rows is another routine (MKL's, on AVX-512) than one of more, and rounds
differently. That holds on one thread: on two, products of fewer than twelve rows differ too. Padding a chunk to its own
longest sequence saves a little and has neither.

Shape letters: n sequences of a chunk, P positions of a chunk, padding included.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_STEP = 0.8  # of a padded length to the next: bounds the share of a chunk that is padding to 1 - step
_SHORTEST = 4  # padded length, unless all sequences are shorter


class Ragged:
    """Sequence i of 1..N lies at `offsets[i - 1]` to `offsets[i]`; one of no length is in no chunk."""

    def __init__(self, offsets: NDArray[np.int64]) -> None:
        self._offsets = offsets
        self._padded = padded_lengths(int(np.diff(offsets).max(initial=0)))

    def chunks(
        self, numbers: NDArray[np.int64], most_positions: int
    ) -> tuple[NDArray[np.int64], list[tuple[NDArray[np.int64], NDArray[np.bool_]]]]:
        """Cut the sequences `numbers` into chunks of at most so many positions, padding included, or of one sequence.

        Returns:
            Places in `numbers` in the order of the chunks, and for each chunk where its positions lie (n, P), and which
            of them are real; the others lie at the start of the sequence.
        """
        lengths = self._offsets[numbers] - self._offsets[numbers - 1]
        rows = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        padded = self._padded[np.searchsorted(self._padded, lengths[rows])]
        runs = cut(padded, most_positions)
        return rows, [self._places(numbers[rows[start:stop]], int(padded[start])) for start, stop in runs]

    def _places(self, numbers: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        starts, stops = self._offsets[numbers - 1][:, None], self._offsets[numbers][:, None]
        position = starts + np.arange(length)
        real = position < stops
        return np.where(real, position, starts), real


def padded_lengths(longest: int) -> NDArray[np.int64]:
    """The lengths there are, ascending: `longest`, then each four fifths of the one before, down to `_SHORTEST`."""
    lengths = [longest]
    while lengths[-1] > _SHORTEST:
        lengths.append(int(_STEP * lengths[-1]))
    return np.array(lengths[::-1], np.int64)


def cut(padded: NDArray[np.int64], most_positions: int) -> Iterator[tuple[int, int]]:
    """Runs of equal numbers of `padded`, of at most `most_positions` in all, but of one at least."""
    start = 0
    while start < len(padded):
        length = int(padded[start])
        alike = int(np.searchsorted(-padded, -length, side="right"))
        stop = min(alike, start + max(1, most_positions // length))
        yield start, stop
        start = stop
