"""Pairs of items in sequences, and the weights of the items in histories.

Shape letters: B users, T items of all their sequences, S points, M distinct pairs of a user and an item, N items of the
catalogue.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.data.batch import HistoryPoints
from transrec.lookup import places_of

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

    users: Ints  # (M,)
    items: Ints  # (M,)
    of_position: Ints  # (T,) the entry of the item at each position of the concatenated sequences
    keys: Ints  # (M,) ascending

    def places(self, users: Ints, items: Ints, width: int) -> NDArray[Any]:
        """The entries of these users' `items`; -1 for an item that is not in the user's sequence."""
        return places_of(users * width + items, self.keys, (int(self.users.max(initial=0)) + 1) * width)


def held(points: HistoryPoints) -> Held:
    """The distinct items of each user's whole sequence."""
    width = points.catalogue_size + 1
    owner = np.repeat(np.arange(len(points.lengths)), points.lengths)
    keys, of_position = np.unique(owner * width + points.items, return_inverse=True)
    return Held(*np.divmod(keys, width), of_position, keys)


def weights(points: HistoryPoints, of: Held, recent: int, recency: float) -> sparse.csr_array:
    """(S, M) weight of each held item in each history: p^-recency for the item p places before the point, p <= recent.

    The weight of an item that occurs more than once is the sum over its occurrences.
    """
    counts = np.minimum(points.seen, recent)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = 1 + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = (np.cumsum(points.lengths) - points.lengths)[points.users] + points.seen
    positions = ends[rows] - places
    if points.hidden is not None:
        shown = ~points.hidden[positions]
        rows, places, positions = rows[shown], places[shown], positions[shown]
    entries = (places.astype(float) ** -recency, (rows, of.of_position[positions]))
    return sparse.coo_array(entries, shape=(len(points.users), len(of.items))).tocsr()
