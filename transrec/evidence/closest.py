"""The closest vectors to each vector, found by comparing all pairs or, if there are too many, only nearby cells.

Designs considered for catalogues too large for all pairs. A graph (HNSW) finds more of the closest vectors in the same
time, but takes many times as long to build, and here every vector is looked up only once. Chosen: cells around centres;
for each vector, the nearest few cells are searched (FAISS's IVF; Douze et al., "The Faiss library", 2024).

Shape letters: M unit vectors, W width, K closest, n vectors of a range.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.evidence.sources import Interim
from transrec.work import Advance, PartWriter

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
Closest = tuple[Ints, Vectors]  # places (n, K) of the closest vectors, and their cosines (n, K)

MOST_COMPARED = 200_000  # vectors: 4 · 10¹⁰ pairs
_SIMILARITIES_AT_ONCE = 2**25  # in memory, 128 MiB; sorting them takes some 400 MiB more
_TRAINED_ON = 64  # vectors for each centre
_ROUNDS = 10  # of k-means
_CELLS, _PROBED = 4, 32  # there are _CELLS·√M cells; _PROBED of them are searched for each vector
_INDEX = "cells.faiss"


class AllPairs:
    """Compares every vector with all others."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.at_once = max(1, _SIMILARITIES_AT_ONCE // max(1, len(vectors)))

    def search(self, asked: Vectors, most: int) -> Closest:
        """The places and cosines (n, most) of the closest vectors, in no order."""
        cosines = asked @ self.vectors.T
        places = np.argpartition(-cosines, max(0, most - 1), axis=1)[:, :most]
        return places, np.take_along_axis(cosines, places, axis=1)


class Cells:
    """Searches the cells around the nearest centres, with an index on disk."""

    at_once = 2**13

    def __init__(self, name: str, vectors: Vectors, interim: Interim) -> None:
        self.vectors, faiss = vectors, _faiss(len(vectors))
        folder = interim(_Indexing(name, vectors))
        self._index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP)
        self._index.nprobe = _PROBED

    def search(self, asked: Vectors, most: int) -> Closest:
        """The places and cosines (n, most) of the closest vectors; -inf where the cells hold fewer."""
        cosines, places = self._index.search(asked, most)
        cosines[places < 0] = -np.inf
        return np.maximum(places, 0), cosines


class _Indexing:
    """The work of assigning the vectors to cells, which a single process does."""

    unit, sizes, total_bytes = "items", (), 0

    def __init__(self, name: str, vectors: Vectors) -> None:
        self.name, self._vectors = f"evidence {name}", vectors

    def begin(self, folder: Path) -> None: ...

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None: ...

    def finish(self, folder: Path) -> None:
        faiss = _faiss(len(self._vectors))
        cells = int(_CELLS * math.sqrt(len(self._vectors)))
        index = faiss.index_factory(self._vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(self._vectors))[: _TRAINED_ON * cells]
        index.train(self._vectors[sample])
        index.add(self._vectors)
        faiss.write_index(index, str(folder / _INDEX))


def finder(name: str, vectors: Vectors, interim: Interim) -> AllPairs | Cells:
    """The search for the closest of `vectors` (M, W); `name` is the evidence's name, shown with the progress.

    Raises:
        ConfigError: there are too many vectors to compare all pairs, and FAISS is not installed.
    """
    return AllPairs(vectors) if len(vectors) <= MOST_COMPARED else Cells(name, vectors, interim)


def comparisons(vectors: float, processes: int) -> float:
    """Approximate number of pairs that the busiest process compares; one process alone makes the index."""
    if vectors <= MOST_COMPARED:
        return vectors**2 / processes
    making = _CELLS * vectors**1.5 + _ROUNDS * _TRAINED_ON * _CELLS**2 * vectors
    return float(making + (_CELLS + _PROBED / _CELLS) * vectors**1.5 / processes)


def closest(find: AllPairs | Cells, first: int, last: int, most: int) -> Closest:
    """The other vectors closest to each of the vectors first..last-1, by ascending place; K is min(most, M - 1)."""
    most = max(0, min(most, len(find.vectors) - 1))
    found = [(np.zeros((0, most), np.int64), np.zeros((0, most), np.float32))]
    for start in range(first, last, find.at_once):
        stop = min(last, start + find.at_once)
        places, cosines = find.search(find.vectors[start:stop], most + 1)
        cosines[places == np.arange(start, stop)[:, None]] = -np.inf  # a vector itself does not count
        kept = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
        kept = np.take_along_axis(kept, np.argsort(np.take_along_axis(places, kept, axis=1), axis=1), axis=1)
        found.append((np.take_along_axis(places, kept, axis=1), np.take_along_axis(cosines, kept, axis=1)))
    return np.concatenate([places for places, _ in found]), np.concatenate([cosines for _, cosines in found])


def _faiss(vectors: int) -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            f"`model.evidence`: there are {vectors:,} items, but without FAISS at most {MOST_COMPARED:,} can be "
            "compared: install faiss-cpu (`pip install 'transrec[faiss]'`), or remove content_similarity"
        ) from None
    return faiss
