"""Nearest-neighbour indexes of target vectors, built with FAISS (Douze et al., "The Faiss library", 2024).

FAISS computes inner products in float32, and the rounding depends on an item's place in the matrix. The items that it
finds are therefore scored again as in `recommend`, in float64 and rounded once, and are sorted by the new scores.

Shape letters: N items, W width, B users, K candidates.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.extras import needed
from transrec.files import writing

Floats = NDArray[np.float32]
IndexKind = Literal["flat", "hnsw"]
INDEXES: tuple[IndexKind, ...] = get_args(IndexKind)
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 512  # HNSW: neighbours per node, list sizes in building and searching
_MARGIN = 16  # extra candidates, in case rounding changed the order of close scores
_USERS_AT_ONCE = 256


def faiss() -> Any:
    """The FAISS module.

    Raises:
        ExtraError: it is not installed.
    """
    return needed("faiss", "an index", "faiss")[0]


def build_index(targets: Floats, kind: IndexKind) -> Any:
    """An inner-product index of `targets` (N, W): `flat` is exact; `hnsw`, a graph, is faster but approximate.

    Raises:
        ExtraError: FAISS is not installed.
    """
    library, width = faiss(), targets.shape[1]
    if kind == "flat":
        index = library.IndexFlatIP(width)
    else:
        index = library.IndexHNSWFlat(width, LINKS, library.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_WIDTH, SEARCH_WIDTH
    index.add(np.ascontiguousarray(targets))
    return index


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file."""
    with writing(path):
        path.write_bytes(faiss().serialize_index(index).tobytes())


def read_index(path: Path) -> Any:
    """
    Raises:
        ExtraError: FAISS is not installed.
        ConfigError: the file cannot be read.
    """
    library = faiss()
    try:
        return library.deserialize_index(np.frombuffer(path.read_bytes(), np.uint8))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"cannot read {path} ({error}): export the vectors again") from None


def nearest(
    targets: Floats, users: Floats, top: int, left_out: Sequence[Sequence[int]], index: Any = None
) -> list[list[tuple[int, float]]]:
    """Rows of `targets` (N, W) with the highest scores for each of `users` (B, W), and the scores, best first.

    Args:
        left_out: for each user, rows that are not returned.
        index: an index of the targets; None: all targets are scored.
    """
    found = []
    for start in range(0, len(users), _USERS_AT_ONCE):
        asked, excluded = users[start : start + _USERS_AT_ONCE], left_out[start : start + _USERS_AT_ONCE]
        most = min(len(targets), top + max(map(len, excluded), default=0) + _MARGIN)
        if index is None:
            rows = np.broadcast_to(np.arange(len(targets)), (len(asked), len(targets)))
        else:
            rows = index.search(np.ascontiguousarray(asked, np.float32), most)[1]
        pairs = zip(asked, rows, excluded, strict=True)
        found += [_best(targets, user, np.setdiff1d(own[own >= 0], list(out)), top) for user, own, out in pairs]
    return found


def _best(targets: Floats, user: Floats, rows: NDArray[np.int64], top: int) -> list[tuple[int, float]]:
    """The `top` best of the ascending `rows` and their scores; ties stay in ascending order."""
    rows = rows.astype(np.int64)
    scores = (targets[rows].astype(np.float64) @ user.astype(np.float64)).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:top]
    return list(zip(rows[best].tolist(), scores[best].tolist(), strict=True))
