"""Item to item, a baseline: how often a candidate directly followed one of the history's newest items.

The item p places from the end has weight 1/p, which beat equal weights on ml-100k and movietweetings. Weights are
scaled to integers, so sums are exact and equal scores tie.

Shape letters: N items of the catalogue (1..N), S points, P pairs.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.data.batch import HistoryPoints
from transrec.evidence.dealt_pairs import MOST_FILES, deal, read_dealt
from transrec.evidence.histories import held, weights
from transrec.evidence.neighbours import Neighbours, looked_up, write_neighbours
from transrec.evidence.pair_counts import Sequences, check_block, merged, ranges
from transrec.evidence.sources import Sources

Ints = NDArray[np.int64]

_PAIRS_AT_ONCE = 16_000_000  # counted together, some 40 bytes each
_INTERACTIONS_AT_ONCE = 2**20  # dealt to the files together


@dataclass(frozen=True)
class ItemToItemConfig:
    """Configuration of `ItemToItem`: how many of the newest items are looked up."""

    recent: int = 5

    name = key = "item_to_item"

    def tables(self) -> dict[str, Any]:
        """The settings that `fill` depends on."""
        return {"name": self.name}

    def fill(self, folder: Path, sources: Sources) -> None:
        """Count the direct successors of every item and write them to `folder`.

        Raises:
            ValueError: lengths do not add up to the items of their block, or an index is outside 1..N.
        """
        with tempfile.TemporaryDirectory(dir=folder) as pairs:
            write_neighbours(folder, _counted(Path(pairs), sources.sequences, sources.catalogue_size))

    def load(self, folder: Path) -> "ItemToItem":
        """The counts in a folder written by `fill`."""
        return ItemToItem(self, Neighbours(folder))


@dataclass(frozen=True)
class ItemToItem:
    """s(h, j) = Σₚ (c / p) · C(hₚ, j) over the newest items h₁, h₂, … of h; C(i, j) counts j directly after i.

    c is the least number that makes every c / p an integer.
    """

    config: ItemToItemConfig
    counts: Neighbours
    hidden = dropout = 0.0

    def scores(self, points: HistoryPoints) -> sparse.csr_array:
        """The score of every candidate for each history, (S, N + 1); the users' own pairs count too."""
        holds, recent = held(points), self.config.recent
        of_histories = weights(points, holds, recent, 1.0)
        of_histories.data = np.rint(of_histories.data * math.lcm(*range(1, recent + 1)))
        used = np.unique(of_histories.indices)
        return looked_up(of_histories[:, used], self.counts.rows(holds.items[used]))


def _counted(folder: Path, sequences: Sequences, catalogue_size: int) -> Iterator[sparse.csr_array]:
    """The rows 0..N of the counts, in pieces."""
    followed = np.zeros(catalogue_size + 1, np.int64)
    for items, _ in _pairs(sequences, catalogue_size):
        np.add.at(followed, items, 1)
    parts = list(ranges(followed, max(_PAIRS_AT_ONCE, int(followed.sum()) // MOST_FILES)))
    deal(folder, _pairs(sequences, catalogue_size), np.array([last for _, last in parts]))
    for number, (first, last) in enumerate(parts):
        one, other = read_dealt(folder, number, 2)
        keys, counts = np.unique((one - first) * (catalogue_size + 1) + other, return_counts=True)
        rows, columns = np.divmod(keys, catalogue_size + 1)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=last - first))])
        yield sparse.csr_array((counts, columns, starts), shape=(last - first, catalogue_size + 1))


def _pairs(sequences: Sequences, catalogue_size: int) -> Iterator[tuple[Ints, Ints]]:
    """Items and their direct successors, (P,) each, of some users at a time."""
    for items, lengths in merged(sequences, _INTERACTIONS_AT_ONCE):
        check_block(items, lengths, catalogue_size)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        within = owner[1:] == owner[:-1]
        yield items[:-1][within], items[1:][within]
