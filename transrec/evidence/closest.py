"""The closest vectors to each vector, found by comparing all pairs or, if there are too many, only nearby cells.

Designs considered beyond all pairs. A graph (HNSW) finds more of the closest vectors in the same time, but takes many
times as long to build, and here every vector is looked up only once. Chosen: cells around centres; for each vector, the
nearest few cells are searched (FAISS's IVF; Douze et al., "The Faiss library", 2024).

Shape letters: M unit vectors, W width, K closest, n vectors of a range.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
Closest = tuple[Ints, Vectors]  # places (n, K) of the closest vectors, ascending, and their cosines (n, K)

MOST_COMPARED = 200_000  # vectors: 4 · 10¹⁰ pairs
_CELLS_AT_ONCE = 2**25  # similarities in memory, 128 MiB; sorting them takes some 400 MiB more
_ASKED_AT_ONCE = 2**13
_TRAINED_ON = 64  # vectors for each centre
_PROBED = 32  # cells searched for each vector


def closest(vectors: Vectors, most: int) -> Iterator[Closest]:
    """Yield the closest vectors to each of `vectors` (M, W) except itself, range by range; K is min(most, M - 1).

    Raises:
        ConfigError: there are too many vectors to compare all pairs, and FAISS is not installed.
    """
    find = _among_all if len(vectors) <= MOST_COMPARED else _in_cells
    for start, places, cosines in find(vectors, min(most + 1, len(vectors))):
        cosines[places == start + np.arange(len(places))[:, None]] = -np.inf  # a vector itself does not count
        kept = np.argsort(-cosines, axis=1, kind="stable")[:, : min(most, len(vectors) - 1)]
        kept = np.take_along_axis(kept, np.argsort(np.take_along_axis(places, kept, axis=1), axis=1), axis=1)
        yield np.take_along_axis(places, kept, axis=1), np.take_along_axis(cosines, kept, axis=1)


def _among_all(vectors: Vectors, most: int) -> Iterator[tuple[int, Ints, Vectors]]:
    step = max(1, _CELLS_AT_ONCE // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step] @ vectors.T
        places = np.argpartition(-cosines, max(0, most - 1), axis=1)[:, :most]
        yield start, places, np.take_along_axis(cosines, places, axis=1)


def _in_cells(vectors: Vectors, most: int) -> Iterator[tuple[int, Ints, Vectors]]:
    index = _index(vectors)
    for start in range(0, len(vectors), _ASKED_AT_ONCE):
        cosines, places = index.search(vectors[start : start + _ASKED_AT_ONCE], most)
        cosines[places < 0] = -np.inf  # the searched cells hold fewer than `most` vectors
        yield start, np.maximum(places, 0), cosines


def _index(vectors: Vectors) -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            f"`model.evidence`: there are {len(vectors):,} items, but without FAISS at most {MOST_COMPARED:,} can be "
            "compared: install faiss-cpu (`pip install 'transrec[faiss]'`), or leave out content_similarity"
        ) from None
    cells = int(4 * math.sqrt(len(vectors)))
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: _TRAINED_ON * cells]])
    index.add(vectors)
    index.nprobe = _PROBED
    return index
