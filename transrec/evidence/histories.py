"""Histories that evidence is asked about: points in users' sequences.

Shape letters: B users, T items of all their sequences, S points, M distinct pairs of a user and an item, N items of the
catalogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of items of the same sequence at one distance: positions in the concatenated sequences."""

    distance: int
    earlier: Ints
    later: Ints


def pairs(items: Ints, lengths: Ints, window: int) -> Iterator[Pairs]:
    """Pairs of different items at distances 1..window, one distance at a time."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for distance in range(1, min(window, int(lengths.max(initial=1)) - 1) + 1):
        alike = (owner[distance:] == owner[:-distance]) & (items[distance:] != items[:-distance])
        earlier = np.flatnonzero(alike)
        yield Pairs(distance, earlier, earlier + distance)


@dataclass(frozen=True)
class Histories:
    """S points in the sequences of B users; the history of a point is what lies before it.

    With `counted`, the sequences are among those that evidence was counted from, so that a user's own share has to be
    taken out of it: else a training target would be found by its own count.
    """

    items: Ints  # (T,) the sequences of the users, one after the other, oldest first
    lengths: Ints  # (B,)
    users: Ints  # (S,) the user of each point
    seen: Ints  # (S,) how many items of the sequence lie before the point
    catalogue_size: int  # N
    counted: bool
    hidden: NDArray[np.bool_] | None = None  # (T,) items that are masked out of every history

    @cached_property
    def held(self) -> "Held":
        """The distinct items of each user."""
        owner = np.repeat(np.arange(len(self.lengths)), self.lengths)
        keys, of_position = np.unique(owner * (self.catalogue_size + 1) + self.items, return_inverse=True)
        return Held(*np.divmod(keys, self.catalogue_size + 1), of_position)

    def places_in_held(self, users: Ints, items: Ints) -> Ints:
        """Where in `held` each of these users' items stands; -1 for an item that is not in the user's sequence."""
        wanted, width = users * (self.catalogue_size + 1) + items, self.catalogue_size + 1
        keys = self.held.users * width + self.held.items
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[places] == wanted, places, -1)

    def weights(self, recent: int, recency: float) -> sparse.csr_array:
        """(S, M) weight of each held item in each history: p^-recency for the item p places before the point."""
        rows, columns, values = [], [], []
        starts = np.concatenate([[0], np.cumsum(self.lengths)])[self.users]
        for place in range(1, min(recent, int(self.seen.max(initial=0))) + 1):
            points = np.flatnonzero(self.seen >= place)
            position = starts[points] + self.seen[points] - place
            if self.hidden is not None:
                points, position = points[~self.hidden[position]], position[~self.hidden[position]]
            rows.append(points)
            columns.append(self.held.of_position[position])
            values.append(np.full(len(points), place**-recency))
        shape = (len(self.users), len(self.held.items))
        if not rows:
            return sparse.csr_array(shape, dtype=np.float64)
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sparse.coo_array(entries, shape=shape).tocsr()


class Held(NamedTuple):
    """The distinct items of each user, ascending by user and item."""

    users: Ints  # (M,)
    items: Ints  # (M,)
    of_position: Ints  # (T,) which of them stands at each position
