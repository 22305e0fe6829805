"""Exact order statistics of numbers read block by block, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_BINS = 2**16


def order_statistics(read: Callable[[], Iterable[Ints]], places: Sequence[int]) -> list[int]:
    """The numbers at `places` (0: the smallest) in the sorted blocks of `read()`; each call of `read` is a pass."""
    lowest, highest = _bounds(read())
    return [_select(read, place, lowest, highest) for place in places]


def _select(read: Callable[[], Iterable[Ints]], place: int, low: int, high: int) -> int:
    """The number at `place` among those in [low, high]: count in bins, then search the bin that holds it."""
    while low < high:
        width = -(-(high - low + 1) // _BINS)
        counts = np.zeros(_BINS, np.int64)
        for block in read():
            inside = block[(block >= low) & (block <= high)]
            distance = (inside - np.int64(low)).view(np.uint64)  # may exceed int64
            counts += np.bincount((distance // np.uint64(width)).astype(np.int64), minlength=_BINS)
        before = np.cumsum(counts) - counts
        found = int(np.searchsorted(before, place, side="right")) - 1
        place -= int(before[found])
        low, high = low + found * width, min(high, low + (found + 1) * width - 1)
    return low


def _bounds(blocks: Iterable[Ints]) -> tuple[int, int]:
    extremes: Iterator[tuple[int, int]] = ((int(block.min()), int(block.max())) for block in blocks if len(block))
    lows, highs = zip(*extremes, strict=True)
    return min(lows), max(highs)
