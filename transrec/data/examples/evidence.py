"""The evidence scores in questions.

Shape letters: B questions, N items of the catalogue.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import ItemSet, SeenItems, SparseScores
from transrec.protocols import Evidence

Ints = NDArray[np.int64]


def of_questions(
    evidence: Sequence[Evidence], histories: Sequence[NDArray[Any]], interactions: Ints
) -> tuple[SparseScores, ...]:
    """The scores (B, N + 1) of all items after each of the `histories`, in the order of the items.

    Args:
        interactions: (N + 1,) number of training interactions of each item.
    """
    seen = _seen(histories, len(interactions) - 1, cold=lambda items: interactions[items] == 0)
    return tuple(by_column(one.scores(seen)) for one in evidence)


def after(evidence: Evidence, histories: Sequence[NDArray[Any]], catalogue_size: int) -> Any:
    """The scores (B, N + 1) of all items after each of the `histories`, as a sparse matrix."""
    return evidence.scores(_seen(histories, catalogue_size))


def _seen(histories: Sequence[NDArray[Any]], catalogue_size: int, cold: ItemSet | None = None) -> SeenItems:
    lengths = np.array([len(history) for history in histories], np.int64)
    return SeenItems(np.concatenate([*histories, []]).astype(np.int64), lengths, catalogue_size, cold)


def of_nobody(evidence: Sequence[Evidence]) -> tuple[SparseScores, ...]:
    """Empty scores for each kind of evidence."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return tuple(SparseScores(nothing, nothing, torch.zeros(0)) for _ in evidence)


def by_column(scores: Any) -> SparseScores:
    """The entries of a sparse matrix of scores (B, N + 1), sorted by column and row, in time independent of N."""
    if scores.shape[1] <= scores.nnz:
        columns = scores.tocsc()  # counts the entries of each column, which is faster than sorting them
        return _tensors(columns.indices, np.repeat(np.arange(scores.shape[1]), np.diff(columns.indptr)), columns.data)
    order = np.argsort(scores.indices, kind="stable")
    return _tensors(_rows(scores)[order], scores.indices[order], scores.data[order])


def _rows(scores: Any) -> Ints:
    """The row of each entry of a sparse matrix by rows."""
    rows: Ints = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    return rows


def _tensors(rows: Ints, columns: NDArray[Any], values: NDArray[Any]) -> SparseScores:
    return SparseScores(
        torch.from_numpy(rows.astype(np.int64)),
        torch.from_numpy(columns.astype(np.int64)),
        torch.from_numpy(values.astype(np.float32)),
    )
