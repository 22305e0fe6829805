"""Counts of pairs: how often a candidate stood near the items of the history in the sequences of all users.

Paper: item-based top-N recommendation (Deshpande and Karypis, TOIS 2004); the powers below are its normalisation by the
frequency of both items. Deviation: the farther apart two items are, the smaller is the weight of their pair.

Shape letters: N items of the catalogue (1..N), B users, S scored positions of all users, M distinct pairs of a user
and an item.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from transrec.data.batch import SeenItems
from transrec.evidence.histories import held, weights
from transrec.evidence.neighbours import Neighbours, NeighbourWork, looked_up, strongest
from transrec.evidence.pair_files import PairKind, counted_pairs
from transrec.evidence.sources import Interim, Sources
from transrec.evidence.terms import EvidenceSettings
from transrec.work import Work

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_TOTALS = "totals.npy"


class PairCountsConfig(EvidenceSettings):
    """Configuration of `PairCounts`: what is counted, and which of it is looked up."""

    window: int = Field(20, ge=1, description="largest distance at which two items of a sequence count as a pair")
    decay: float = Field(0.5, ge=0, description="a pair at distance d has weight d^-decay")
    row_power: float = Field(0.5, ge=0, description="counts are divided by the history item's total to this power")
    column_power: float = Field(0.25, ge=0, description="counts are divided by the candidate's total to this power")
    recent: int = Field(20, ge=1, description="number of newest items of a history that are looked up")
    recency: float = Field(0.5, ge=0, description="the item p places from the end of a history has weight p^-recency")
    neighbours: int = Field(200, ge=1, description="number of candidates kept for each item")

    forward: ClassVar[bool] = False  # whether only candidates after an item count as its pairs

    def tables(self) -> dict[str, Any]:
        """The settings that the table depends on."""
        return self.model_dump(exclude={"recent", "recency", "weight", "scale"})

    def pairs(self, interactions: float, users: float) -> float:
        """Upper bound of the number of pairs that are counted, if all users have the same number of interactions."""
        length = interactions / users
        near = max(0.0, min(self.window, length - 1))
        return users * near * (length - (near + 1) / 2) * (1 if self.forward else 2)

    @property
    def kind(self) -> PairKind:
        """The pairs that are counted."""
        return PairKind(self.window, self.decay, self.forward, repeats=False)

    def work(self, sources: Sources, interim: Interim) -> Work:
        """The work of counting pairs and filling a folder with the table."""
        counted = counted_pairs(self.key, self.kind, sources, interim)
        totals = counted.totals()
        columns = np.maximum(totals[1], 1e-9) ** -self.column_power

        def rows(part: int) -> sparse.csr_array:
            table = counted.rows(part)
            return strongest(table, table.data * columns[table.indices], self.neighbours)

        return _CountsWork(self.key, counted.lengths, rows, totals)

    def load(self, folder: Path) -> "PairCounts":
        """The evidence in a folder that was filled by `work`."""
        return PairCounts(self, Neighbours(folder), np.load(folder / _TOTALS))


class PairCounts:
    """s(h, j) = Σₚ p^-recency · C(hₚ, j) / (R(hₚ)^row_power · S(j)^column_power), over the newest items h₁, h₂, … of h.

    C(i, j) counts the pairs of i with a j near it, or after it; R are the sums of C over j, and S those over i. With
    `neighbours` ≥ N, no count is dropped.
    """

    def __init__(self, config: PairCountsConfig, counts: Neighbours, totals: Floats) -> None:
        self.config, self.counts = config, counts
        self.row_totals, self.column_totals = totals
        self._column_powers = _power(self.column_totals, config.column_power)

    def scores(self, seen: SeenItems) -> sparse.csr_array:
        """The score of every candidate for each history, (B, N + 1)."""
        holds = held(seen)
        of_histories = weights(seen, holds, self.config.recent, self.config.recency)
        used = np.unique(of_histories.indices)
        table, totals = self.counts.rows(holds.items[used]), self.row_totals[holds.items[used]]
        table.data = table.data * self._column_powers[table.indices]
        return looked_up(of_histories[:, used] * _power(totals, self.config.row_power), table)


class _CountsWork(NeighbourWork):
    """Adds the totals of the items to the table."""

    def __init__(
        self, name: str, lengths: Sequence[int], rows: Callable[[int], sparse.csr_array], totals: Floats
    ) -> None:
        super().__init__(name, lengths, rows)
        self._totals = totals

    def begin(self, folder: Path) -> None:
        np.save(folder / _TOTALS, self._totals)


def _power(totals: Floats, power: float) -> Floats:
    """totals^-power; 0 where there is nothing."""
    return np.where(totals > 0, np.maximum(totals, np.finfo(np.float64).tiny) ** -power, 0)
