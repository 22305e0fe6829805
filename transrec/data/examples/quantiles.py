"""Exact order statistics of numbers that the ranks read block by block, in constant memory."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from transrec.data.peers import Peers

Ints = NDArray[np.int64]
_BINS = 2**16
_WHAT = "find the moments of the temporal split"


def order_statistics(read: Callable[[], Iterable[Ints]], shares: Sequence[float], peers: Peers) -> list[int] | None:
    """The number at place ⌊share · (n - 1)⌋ of n sorted numbers, for each of `shares`; None if there are no numbers.

    Args:
        read: yields this rank's numbers, block by block; each call is a pass.
    """
    count, low, high = _bounds(read())
    bounds = np.zeros((peers.size, 3), np.int64)
    bounds[peers.rank] = count, low, high
    known = peers.total(_WHAT, bounds)
    known = known[known[:, 0] > 0]
    if not len(known):
        return None
    count, low, high = int(known[:, 0].sum()), int(known[:, 1].min()), int(known[:, 2].max())
    return [_select(read, int(share * (count - 1)), low, high, peers) for share in shares]


def _select(read: Callable[[], Iterable[Ints]], place: int, low: int, high: int, peers: Peers) -> int:
    """The number at `place` among those in [low, high]: count in bins, then search the bin that holds it."""
    while low < high:
        width = -(-(high - low + 1) // _BINS)
        counts = np.zeros(_BINS, np.int64)
        for block in read():
            inside = block[(block >= low) & (block <= high)]
            distance = (inside - np.int64(low)).view(np.uint64)  # may exceed int64
            counts += np.bincount((distance // np.uint64(width)).astype(np.int64), minlength=_BINS)
        counts = peers.total(_WHAT, counts)
        before = np.cumsum(counts) - counts
        found = int(np.searchsorted(before, place, side="right")) - 1
        place -= int(before[found])
        low, high = low + found * width, min(high, low + (found + 1) * width - 1)
    return low


def _bounds(blocks: Iterable[Ints]) -> tuple[int, int, int]:
    """The count, the lowest and the highest of the numbers; 0, 0, 0 if there are none."""
    found = [(len(block), int(block.min()), int(block.max())) for block in blocks if len(block)]
    if not found:
        return 0, 0, 0
    counts, lows, highs = zip(*found, strict=True)
    return sum(counts), min(lows), max(highs)
