"""Item to item, a baseline: how often a candidate directly followed one of the history's newest items.

The item p places from the end has weight 1/p, which ranked better than equal weights on ml-100k and movietweetings.
Weights are scaled to integers, so sums are exact and equal scores tie.

Shape letters: B users, N items of the catalogue.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from transrec.data.batch import SeenItems
from transrec.evidence.histories import held, weights
from transrec.evidence.neighbours import Neighbours, NeighbourWork, looked_up
from transrec.evidence.pair_files import PairKind, counted_pairs
from transrec.evidence.sources import Interim, Sources
from transrec.work import Work


@dataclass(frozen=True)
class ItemToItemConfig:
    """Configuration of `ItemToItem`: how many of the newest items are looked up."""

    recent: int = 5

    name = key = "item_to_item"

    def tables(self) -> dict[str, Any]:
        """The settings that the table depends on."""
        return {"name": self.name}

    def work(self, sources: Sources, interim: Interim) -> Work:
        """The work of counting the direct successors of every item."""
        counted = counted_pairs(self.name, PairKind(1, 0.0, forward=True, repeats=True), sources, interim)
        return NeighbourWork(self.name, counted.lengths, counted.rows)

    def load(self, folder: Path) -> "ItemToItem":
        """The counts in a folder that was filled by `work`."""
        return ItemToItem(self, Neighbours(folder))


@dataclass(frozen=True)
class ItemToItem:
    """s(h, j) = Σₚ (c / p) · C(hₚ, j) over the newest items h₁, h₂, … of h; C(i, j) counts j directly after i.

    c is the smallest number that makes every c / p an integer.
    """

    config: ItemToItemConfig
    counts: Neighbours

    def scores(self, seen: SeenItems) -> sparse.csr_array:
        """The score of every candidate for each history, (B, N + 1)."""
        holds, recent = held(seen), self.config.recent
        of_histories = weights(seen, holds, recent, 1.0)
        of_histories.data = np.rint(of_histories.data * math.lcm(*range(1, recent + 1)))
        used = np.unique(of_histories.indices)
        return looked_up(of_histories[:, used], self.counts.rows(holds.items[used]))
