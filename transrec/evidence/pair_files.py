"""Pairs of items, written to files by the processes of a node, so that ranges of items can be counted separately.

Designs considered for counting pairs. Adding the pairs of each block of users to one matrix: every block copies the
whole matrix. Sorting all pairs in memory: 8 bytes or more for each. Reading all sequences once for each range of items:
the less memory, the more passes, so time grows with the square of the interactions. Chosen: each part of the work reads
some blocks of users once, and writes their pairs to a file, sorted by the range of the first item in chunks of bounded
size. Time is linear in the pairs, and processes share both this work and the counting of the ranges. Each process holds
some 16 million pairs, or one in 2,000 of all pairs if that is more.

Shape letters: N items of the catalogue (1..N), P pairs, R ranges of items.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transrec.evidence.histories import pairs
from transrec.evidence.sources import Interim, Sources
from transrec.work import PARTS_FOLDER, Advance, PartWriter

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BYTES = 12  # of a pair on disk: its first item, its other item and their distance
MOST_RANGES = 2000
_TOTALS = "totals.npy"
_COLUMNS = 3
_INTERACTIONS_OF_A_PART, _INTERACTIONS_PER_ITEM = 2**22, 8  # at least; a part writes 16 bytes for each item
_INTERACTIONS_AT_ONCE = 2**20  # read together: pairs at one distance take some 100 bytes each
_PAIRS_AT_ONCE = 16_000_000  # of a range, counted together: 60 bytes each at most


class PairKind(NamedTuple):
    """Which pairs of items of a sequence are counted, and with which weight."""

    window: int  # largest distance
    decay: float  # a pair at distance d has weight d^-decay
    forward: bool  # whether only the later item of a pair is the candidate
    repeats: bool  # whether an item can be its own candidate

    def per_interaction(self) -> int:
        """Upper bound of the number of pairs that start at one interaction."""
        return self.window if self.forward else 2 * self.window


def counted_pairs(name: str, kind: PairKind, sources: Sources, interim: Interim) -> "PairFiles":
    """The pairs of all sequences; `name` is shown with the progress."""
    ranges = item_ranges(kind, sources)
    writing = PairWriting(name, kind, sources, ranges)
    return PairFiles(interim(writing), len(writing.sizes), kind, ranges)


class PairWriting:
    """The work of writing the pairs of all sequences, in parts of consecutive blocks of users."""

    unit = "interactions"

    def __init__(self, name: str, kind: PairKind, sources: Sources, ranges: Sequence[tuple[int, int]]) -> None:
        self.name, self._kind, self._sources = f"pairs {name}", kind, sources
        self._ends = np.array([last for _, last in ranges])
        self._parts = _block_ranges(
            sources.block_sizes, max(_INTERACTIONS_OF_A_PART, _INTERACTIONS_PER_ITEM * sources.catalogue_size)
        )
        self.sizes = [int(sources.block_sizes[part.start : part.stop].sum()) for part in self._parts]
        self.total_bytes = 0  # unknown before the pairs have been written

    def begin(self, folder: Path) -> None: ...

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        """Write the pairs of a part, where each chunk of them ends in each range, and how often each item occurs."""
        size = self._sources.catalogue_size + 1
        totals, cuts = np.zeros((2, size)), [np.zeros(len(self._ends), np.int64)]
        with out.file(_pairs_of(part)) as write:
            for items, lengths in merged(self._sources.sequences(self._parts[part]), max(_INTERACTIONS_AT_ONCE, size)):
                check_block(items, lengths, size - 1)
                for distance, one, other in _pairs(items, lengths, self._kind):
                    weight = distance**-self._kind.decay
                    totals[0] += np.bincount(one, minlength=size) * weight
                    totals[1] += np.bincount(other, minlength=size) * weight
                    rows, ends = _by_range(one, other, distance, self._ends)
                    write(rows.data)
                    cuts.append(cuts[-1][-1] + ends)
                advance(len(items))
        with out.file(_cuts_of(part)) as write:
            write(np.stack(cuts).data)
        with out.file(f"{PARTS_FOLDER}/{_totals_of(part)}") as write:
            write(totals.data)

    def finish(self, folder: Path) -> None:
        totals = np.zeros((2, self._sources.catalogue_size + 1))
        for part in range(len(self._parts)):
            totals += np.fromfile(folder / PARTS_FOLDER / _totals_of(part)).reshape(totals.shape)
        np.save(folder / _TOTALS, totals)


class PairFiles:
    """The pairs in a folder that `PairWriting` filled."""

    def __init__(self, folder: Path, parts: int, kind: PairKind, ranges: Sequence[tuple[int, int]]) -> None:
        self._folder, self._parts, self._kind, self._ranges = folder, parts, kind, ranges

    @property
    def lengths(self) -> list[int]:
        """The number of items in each range; the ranges follow each other from item 0 to item N."""
        return [last - first for first, last in self._ranges]

    def totals(self) -> Floats:
        """The weighted number of pairs of each item, as the first and as the candidate, (2, N + 1)."""
        found: Floats = np.load(self._folder / _TOTALS)
        return found

    def rows(self, number: int) -> sparse.csr_array:
        """The weighted numbers of pairs of the items of a range with each candidate, (items of the range, N + 1)."""
        one, other, distance = self._read(number)
        first, last = self._ranges[number]
        shape = (last - first, self._ranges[-1][1])
        return sparse.coo_array((distance**-self._kind.decay, (one - first, other)), shape=shape).tocsr()

    def _read(self, number: int) -> tuple[Ints, Ints, Floats]:
        """The first items, candidates and distances of the pairs of a range, (P,) each, in the order of the users."""
        pieces = [np.zeros((0, _COLUMNS), np.int32)]
        for part in range(self._parts):
            cuts = np.fromfile(self._folder / _cuts_of(part), np.int64).reshape(-1, len(self._ranges))
            starts = cuts[:-1, -1] if number == 0 else cuts[1:, number - 1]
            with (self._folder / _pairs_of(part)).open("rb") as file:
                for start, end in zip(starts.tolist(), cuts[1:, number].tolist(), strict=True):
                    file.seek(start * BYTES)
                    pieces.append(np.fromfile(file, np.int32, (end - start) * _COLUMNS).reshape(-1, _COLUMNS))
        one, other, distance = np.concatenate(pieces).T
        return one.astype(np.int64), other.astype(np.int64), distance.astype(np.float64)


def item_ranges(kind: PairKind, sources: Sources) -> list[tuple[int, int]]:
    """Ranges of items (first, last + 1) whose pairs fit in memory together; a single item may have more.

    They are computed from how often each item occurs, before any pair is known.
    """
    ends = np.cumsum(sources.popularity * kind.per_interaction())
    most = max(_PAIRS_AT_ONCE, int(ends[-1]) // MOST_RANGES)
    found, first = [], 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        found.append((first, last))
        first = last
    return found


def merged(blocks: Iterable[tuple[Ints, Ints]], least: int) -> Iterator[tuple[Ints, Ints]]:
    """Merge blocks into blocks of at least `least` interactions (except the last), because each block costs time."""
    items, lengths, waiting = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for some, their_lengths in blocks:
        items.append(some)
        lengths.append(their_lengths)
        waiting += len(some)
        if waiting >= least:
            yield np.concatenate(items), np.concatenate(lengths)
            items, lengths, waiting = items[:1], lengths[:1], 0
    yield np.concatenate(items), np.concatenate(lengths)


def check_block(items: Ints, lengths: Ints, catalogue_size: int) -> None:
    """
    Raises:
        ValueError: lengths do not add up to the items of their block, or an index is outside 1..N.
    """
    if lengths.sum() != len(items):
        raise ValueError(f"the lengths of a block add up to {lengths.sum()}, but it holds {len(items)} items")
    if len(items) and (items.min() < 1 or items.max() > catalogue_size):
        raise ValueError(
            f"item indices of sequences must be 1..{catalogue_size}, but a block has {items.min()}..{items.max()}"
        )


def _pairs(items: Ints, lengths: Ints, kind: PairKind) -> Iterator[tuple[int, Ints, Ints]]:
    """Distances, first items (P,) and candidates (P,) of the pairs of some users."""
    for distance, earlier, later in pairs(items, lengths, kind.window, kind.repeats):
        yield distance, items[earlier], items[later]
        if not kind.forward:
            yield distance, items[later], items[earlier]


def _by_range(one: Ints, other: Ints, distance: int, ends: Ints) -> tuple[NDArray[np.int32], Ints]:
    """The pairs (P, 3), sorted by the range of their first item, and the place where each range ends (R,)."""
    rows = np.stack([one, other, np.full(len(one), distance)], axis=1).astype(np.int32)
    if len(ends) == 1:
        return rows, np.array([len(rows)])
    part = np.searchsorted(ends, one, side="right").astype(np.uint16)  # a stable sort of 16 bits is a radix sort
    return rows[np.argsort(part, kind="stable")], np.cumsum(np.bincount(part, minlength=len(ends)))


def _block_ranges(sizes: Ints, least: int) -> list[range]:
    """Ranges of blocks with at least `least` interactions together, except the last; at least one range."""
    found, first, waiting = [], 0, 0
    for block, size in enumerate(sizes.tolist()):
        waiting += size
        if waiting >= least:
            found.append(range(first, block + 1))
            first, waiting = block + 1, 0
    return [*found, range(first, len(sizes))] if first < len(sizes) or not found else found


def _pairs_of(part: int) -> str:
    return f"{part:06d}.pairs"


def _cuts_of(part: int) -> str:
    return f"{part:06d}.cuts"


def _totals_of(part: int) -> str:
    return f"{part:06d}.totals"
