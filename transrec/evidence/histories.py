"""Pairs of items in sequences, and the weights of the items in histories.

Shape letters: B users, T items of all their sequences, M distinct pairs of a user and an item.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.data.batch import SeenItems

Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of items of the same sequence at one distance: positions in the concatenated sequences."""

    distance: int
    earlier: Ints
    later: Ints


def pairs(items: Ints, lengths: Ints, window: int, repeats: bool = False) -> Iterator[Pairs]:
    """Pairs of items at distances 1..window, one distance at a time; with `repeats`, also of an item with itself."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for distance in range(1, min(window, int(lengths.max(initial=1)) - 1) + 1):
        together = owner[distance:] == owner[:-distance]
        if not repeats:
            together &= items[distance:] != items[:-distance]
        earlier = np.flatnonzero(together)
        yield Pairs(distance, earlier, earlier + distance)


class Held(NamedTuple):
    """The distinct items of each user, ascending by user and item."""

    items: Ints  # (M,)
    of_position: Ints  # (T,) the entry of the item at each position of the concatenated histories


def held(seen: SeenItems) -> Held:
    """The distinct items of each history."""
    width = seen.catalogue_size + 1
    owner = np.repeat(np.arange(len(seen.lengths)), seen.lengths)
    keys, of_position = np.unique(owner * width + seen.items, return_inverse=True)
    return Held(keys % width, of_position)


def weights(seen: SeenItems, of: Held, recent: int, recency: float) -> sparse.csr_array:
    """Weight (B, M) of each held item in each history: p^-recency for the item p places from the end, p <= recent.

    The weight of an item that occurs more than once is the sum over its occurrences.
    """
    counts = np.minimum(seen.lengths, recent)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = 1 + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.cumsum(seen.lengths)[rows] - places
    entries = (places.astype(float) ** -recency, (rows, of.of_position[positions]))
    return sparse.coo_array(entries, shape=(len(counts), len(of.items))).tocsr()
