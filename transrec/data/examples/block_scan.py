"""One pass over the blocks of users at the start of a run, shared by its ranks.

Designs considered. Every rank reads all blocks: as many passes over the data as there are ranks. The counts are stored
when the shards are built: they depend on the split, the fraction and the minimum number of interactions of each run.
Chosen: rank r reads blocks r, r + R, r + 2R, … of R ranks, and the ranks add up their counts. Counts are kept per block
and not per user, so that the memory of a rank does not grow with the number of users.

The time is linear in the interactions: the items of a block are added in place, without an array of the
catalogue's length for each block.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transrec.data.peers import Peers

Ints = NDArray[np.int64]
_WHAT = "scan its blocks of users"


class BlockCounts(NamedTuple):
    """What is counted in one block."""

    numbers: tuple[int, ...]  # any numbers, the same count for every block
    trained: NDArray[np.integer[Any]]  # the item of each training interaction
    occurring: NDArray[np.integer[Any]]  # items, which may repeat, of the users who take part


class Scanned(NamedTuple):
    """What was counted in all blocks."""

    numbers: Ints  # (blocks, numbers)
    popularity: Ints  # (N + 1,) training interactions of each item
    occurring: NDArray[np.bool_]  # (N + 1,) whether the item occurs


def share(blocks: int, peers: Peers) -> Iterator[int]:
    """The numbers of the blocks that this rank reads."""
    return iter(range(peers.rank, blocks, peers.size))


def scan_blocks(
    blocks: int, catalogue_size: int, width: int, count: Callable[[int], BlockCounts], peers: Peers
) -> Scanned:
    """Count every block once, on one of the ranks.

    Args:
        catalogue_size: N.
        width: number of `numbers` that `count` gives for a block.
    """
    numbers = np.zeros((blocks, width), np.int64)
    popularity, occurring = np.zeros((2, catalogue_size + 1), np.int64)
    for block in share(blocks, peers):
        counts = count(block)
        numbers[block] = counts.numbers
        add_items(popularity, counts.trained)
        occurring[counts.occurring] = 1
    total = peers.total(_WHAT, np.concatenate([numbers.ravel(), popularity, occurring]))
    numbers, popularity, occurring = np.split(total, np.cumsum([numbers.size, len(popularity)]))
    return Scanned(numbers.reshape(blocks, width), popularity, occurring > 0)


def add_items(counts: Ints, items: NDArray[np.integer[Any]]) -> None:
    """Add one to `counts` (N + 1,) for each of `items`, in time that does not depend on N."""
    np.add.at(counts, items.astype(np.int64, copy=False), 1)  # other types of index take a path that reads all counts
