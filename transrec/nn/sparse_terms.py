"""Scores with sparse terms added to them.

Shape letters: B users of a call, N items (indices 1..N; 0 pads).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.protocols import Score


def with_terms(score: Score, terms: Sequence[SparseScores]) -> Score:
    """`score` plus every term of (B, N + 1) scores, whose entries it holds in the order of their columns."""
    by_column = [_by_column(term) for term in terms]

    def total(a: int, b: int) -> Tensor:
        found = score(a, b)
        for term in by_column:
            first, last = torch.searchsorted(term.columns, torch.tensor([a, b], device=term.columns.device)).tolist()
            places = (term.rows[first:last], term.columns[first:last] - a)
            found[places] = found[places] + term.values[first:last].to(found.device)
        return found

    return total if terms else score


def _by_column(term: SparseScores) -> SparseScores:
    order = term.columns.argsort(stable=True)
    return SparseScores(term.rows[order], term.columns[order], term.values[order])
