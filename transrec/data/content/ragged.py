"""Sequences of different lengths, concatenated in one array, and how they are cut into encoder passes.

A sequence is padded to the same length in every batch, whatever its neighbours: to the next of a few lengths, each four
fifths of the next larger one, but at least four positions. An item's states are therefore the same numbers wherever
they are computed, a cache of them is exact, and a device sees few shapes. The minimum is for a chunk of a single short
text: for a matrix product of one to three rows, MKL on AVX-512 uses a routine of its own, which rounds differently.
This holds on one thread; on two, products of fewer than twelve rows also differ. Padding a chunk to its own longest
sequence would save a little, but have none of these properties.

Shape letters: n sequences of a chunk, P positions of a chunk, padding included.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_STEP = 0.8  # ratio of successive padded lengths; at most 1 - step of a chunk is padding
_SHORTEST = 4  # least padded length, unless all sequences are shorter


class Ragged:
    """Sequence i of 1..N spans `offsets[i - 1]` to `offsets[i]`; empty sequences are in no chunk."""

    def __init__(self, offsets: NDArray[np.int64]) -> None:
        self._offsets = offsets
        self._padded = padded_lengths(int(np.diff(offsets).max(initial=0)))

    def chunks(
        self, numbers: NDArray[np.int64], most_positions: int
    ) -> tuple[NDArray[np.int64], list[tuple[NDArray[np.int64], NDArray[np.bool_]]]]:
        """Cut the sequences `numbers` into chunks of at most `most_positions`, padding included, or of one sequence.

        Returns:
            Indices into `numbers` in the order of the chunks, and for each chunk the array index of each position
            (n, P) and a mask of the real positions; padding repeats the start of the sequence.
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
    """All padded lengths, ascending: `longest`, then each four fifths of the one before, down to `_SHORTEST`."""
    lengths = [longest]
    while lengths[-1] > _SHORTEST:
        lengths.append(int(_STEP * lengths[-1]))
    return np.array(lengths[::-1], np.int64)


def cut(padded: NDArray[np.int64], most_positions: int) -> Iterator[tuple[int, int]]:
    """Runs of equal lengths in `padded`, each of at most `most_positions` in total but at least one sequence."""
    start = 0
    while start < len(padded):
        length = int(padded[start])
        alike = int(np.searchsorted(-padded, -length, side="right"))
        stop = min(alike, start + max(1, most_positions // length))
        yield start, stop
        start = stop
