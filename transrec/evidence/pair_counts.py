"""Counts of pairs: how often a candidate stood near the items of the history in the sequences of all users.

Paper: item-based top-N recommendation (Deshpande and Karypis, TOIS 2004); the powers below are its normalisation by the
frequency of both items. Deviation: the farther apart two items are, the less their pair counts.

Shape letters: N items of the catalogue (1..N), B users, S scored positions of all users, M distinct pairs of a user
and an item.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from transrec.data.batch import HistoryPoints
from transrec.evidence.dealt_pairs import MOST_FILES, deal, read_dealt
from transrec.evidence.histories import Held, held, pairs, weights
from transrec.evidence.neighbours import Neighbours, looked_up, of_items, strongest, write_neighbours
from transrec.evidence.sources import Sources
from transrec.evidence.terms import EvidenceSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Sequences = Callable[[], Iterable[tuple[Ints, Ints]]]  # blocks of (items of whole sequences, their lengths)

_TOTALS = "totals.npy"
_INTERACTIONS_AT_ONCE = 2**20  # counted together
_PAIRS_AT_ONCE = 16_000_000  # held in memory while counting, 60 bytes each at most


class PairCountsConfig(EvidenceSettings):
    """Configuration of `PairCounts`: what is counted, and which of it is looked up."""

    window: int = Field(20, ge=1, description="largest distance at which two items of a sequence count as a pair")
    decay: float = Field(0.5, ge=0, description="a pair at distance d counts d^-decay")
    row_power: float = Field(0.5, ge=0, description="counts are divided by the history item's total to this power")
    column_power: float = Field(0.25, ge=0, description="counts are divided by the candidate's total to this power")
    recent: int = Field(20, ge=1, description="number of newest items of a history that are looked up")
    recency: float = Field(0.5, ge=0, description="the item p places from the end of a history weighs p^-recency")
    neighbours: int = Field(200, ge=1, description="number of candidates kept for each item")

    forward: ClassVar[bool] = False  # whether only candidates after an item count as its pairs

    def tables(self) -> dict[str, Any]:
        """The settings that `fill` depends on."""
        return self.model_dump(exclude={"recent", "recency", "weight", "scale", "dropout"})

    def pairs(self, interactions: float, users: float) -> float:
        """Upper bound of the number of pairs that `fill` counts, if all users have equally many interactions."""
        length = interactions / users
        near = max(0.0, min(self.window, length - 1))
        return users * near * (length - (near + 1) / 2) * (1 if self.forward else 2)

    def fill(self, folder: Path, sources: Sources) -> None:
        """Count the pairs of all sequences and write the table to `folder`.

        The sequences are read twice. Memory holds some 16 million pairs, or one in two hundred, and, for each item of
        the catalogue, an interaction and two totals, whatever the number of users; while they are counted, the folder
        holds 12 bytes for each pair.
        """
        totals, pairs_of = _totals(sources.sequences, sources.catalogue_size, self)
        np.save(folder / _TOTALS, totals)
        columns = np.maximum(totals[1], 1e-9) ** -self.column_power
        with tempfile.TemporaryDirectory(dir=folder) as dealt:
            pieces = _counted(Path(dealt), sources.sequences, self, pairs_of)
            kept = (strongest(one, one.data * columns[one.indices], self.neighbours) for one in pieces)
            write_neighbours(folder, kept)

    def load(self, folder: Path) -> "PairCounts":
        """The evidence in a folder written by `fill`."""
        return PairCounts(self, Neighbours(folder), np.load(folder / _TOTALS))


class PairCounts:
    """s(h, j) = Σₚ p^-recency · C(hₚ, j) / (R(hₚ)^row_power · S(j)^column_power), over the newest items h₁, h₂, … of h.

    C(i, j) counts pairs of i and a j near it, or after it; R are its sums over j, and S those over i. If the users of
    the histories were counted too, their own pairs are subtracted from all three, exactly. With `neighbours` at least N
    nothing is cut off.
    """

    hidden = 0.0

    def __init__(self, config: PairCountsConfig, counts: Neighbours, totals: Floats) -> None:
        self.config, self.counts, self.dropout = config, counts, config.dropout
        self.row_totals, self.column_totals = totals
        self._column_powers = self._power(self.column_totals, config.column_power)

    def scores(self, points: HistoryPoints) -> sparse.csr_array:
        """The score of every candidate for each history, (S, N + 1)."""
        holds = held(points)
        of_histories = weights(points, holds, self.config.recent, self.config.recency)
        used = np.unique(of_histories.indices)
        table, totals = self.counts.rows(holds.items[used]), self.row_totals[holds.items[used]]
        if points.counted:
            own, column_totals = self._own_pairs(points, holds), self.column_totals[table.indices]
            totals = totals - own.sum(axis=1)[used]
            self._subtract(own, holds, used, table, column_totals)
            table.data = table.data * self._power(column_totals, self.config.column_power)
        else:
            table.data = table.data * self._column_powers[table.indices]
        cold = points.cold
        if points.counted and cold is not None:
            table = of_items(table, lambda items: ~cold(items))
        return looked_up(of_histories[:, used] * self._power(totals, self.config.row_power), table)

    def _own_pairs(self, points: HistoryPoints, holds: Held) -> sparse.csr_array:
        """(M, M) weighted pairs of an item and a candidate among the items of each user."""
        rows, columns, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for distance, earlier, later in pairs(points.items, points.lengths, self.config.window):
            for one, other in _directions(earlier, later, self.config):
                rows.append(holds.of_position[one])
                columns.append(holds.of_position[other])
                values.append(np.full(len(one), distance**-self.config.decay))
        places = (np.concatenate(rows), np.concatenate(columns))
        return sparse.coo_array((np.concatenate(values), places), shape=(len(holds.items), len(holds.items))).tocsr()

    def _subtract(
        self, own: sparse.csr_array, holds: Held, used: Ints, table: sparse.csr_array, column_totals: Floats
    ) -> None:
        """Take each user's own pairs out of the counts in `table` (a row for each of `used`) and out of the totals."""
        rows = np.repeat(used, np.diff(table.indptr))
        places = holds.places(holds.users[rows], table.indices, self.counts.size)
        (known,) = np.nonzero(places >= 0)
        left = table.data[known] - own[rows[known], places[known]]
        table.data[known] = np.where(left < self._least, 0, left)
        column_totals[known] -= own.sum(axis=0)[places[known]]

    @property
    def _least(self) -> float:
        """Half the weight of one pair: a smaller rest of a subtraction is only a rounding error."""
        return 0.5 * float(self.config.window**-self.config.decay)

    def _power(self, totals: Floats, power: float) -> Floats:
        """totals^-power; 0 where there is nothing."""
        return np.where(totals < self._least, 0, np.maximum(totals, self._least) ** -power)


def merged(sequences: Sequences, least: int) -> Iterator[tuple[Ints, Ints]]:
    """Merge blocks into blocks of at least `least` interactions (except the last), because each block costs time."""
    items, lengths, waiting = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for some, their_lengths in sequences():
        items.append(some)
        lengths.append(their_lengths)
        waiting += len(some)
        if waiting >= least:
            yield np.concatenate(items), np.concatenate(lengths)
            items, lengths, waiting = items[:1], lengths[:1], 0
    yield np.concatenate(items), np.concatenate(lengths)


def _totals(sequences: Sequences, catalogue_size: int, config: PairCountsConfig) -> tuple[Floats, Ints]:
    """For each item, the weighted number of its pairs, (2, N + 1): as the one that is looked up, and as the candidate;
    and the plain number of the former (N + 1,)."""
    weighted, plain = np.zeros((2, catalogue_size + 1)), np.zeros(catalogue_size + 1, np.int64)
    for items, lengths in merged(sequences, max(_INTERACTIONS_AT_ONCE, catalogue_size)):
        check_block(items, lengths, catalogue_size)
        for distance, earlier, later in pairs(items, lengths, config.window):
            for one, other in _directions(earlier, later, config):
                found = np.bincount(items[one], minlength=catalogue_size + 1)
                plain += found
                weighted[0] += found * distance**-config.decay
                weighted[1] += np.bincount(items[other], minlength=catalogue_size + 1) * distance**-config.decay
    return weighted, plain


def _directions(earlier: Ints, later: Ints, config: PairCountsConfig) -> list[tuple[Ints, Ints]]:
    """Positions of items and of their candidates in pairs."""
    return [(earlier, later)] if config.forward else [(earlier, later), (later, earlier)]


def ranges(pairs_of: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of items (first, last + 1) that have `most` pairs together, or a single item that has more."""
    ends = np.cumsum(pairs_of)
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _counted(
    folder: Path, sequences: Sequences, config: PairCountsConfig, pairs_of: Ints
) -> Iterator[sparse.csr_array]:
    """Weighted pairs of all items, as the rows 0..N in pieces."""
    parts = list(ranges(pairs_of, max(_PAIRS_AT_ONCE, int(pairs_of.sum()) // MOST_FILES)))
    deal(folder, _pairs(sequences, config), np.array([last for _, last in parts]))
    for number, (first, last) in enumerate(parts):
        one, other, distance = read_dealt(folder, number, 3)
        shape = (last - first, len(pairs_of))
        yield sparse.coo_array((distance**-config.decay, (one - first, other)), shape=shape).tocsr()


def _pairs(sequences: Sequences, config: PairCountsConfig) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Items, their candidates and the distances between them, (P,) each, of some users at a time."""
    for items, lengths in merged(sequences, _INTERACTIONS_AT_ONCE):
        for distance, earlier, later in pairs(items, lengths, config.window):
            for one, other in _directions(earlier, later, config):
                yield items[one], items[other], np.full(len(one), distance)


def check_block(items: Ints, lengths: Ints, catalogue_size: int) -> None:
    """
    Raises:
        ValueError: lengths do not add up to the items of their block, or an index is outside 1..N.
    """
    if lengths.sum() != len(items):
        raise ValueError(f"lengths add up to {lengths.sum()}, but the block holds {len(items)} items")
    if len(items) and (items.min() < 1 or items.max() > catalogue_size):
        raise ValueError(f"sequences: expected item indices 1..{catalogue_size}")
