"""Scores with sparse terms added to them.

Shape letters: B users of a call, N items (indices 1..N; 0 pads).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.protocols import Score


def with_terms(score: Score, terms: Sequence[SparseScores]) -> Score:
    """`score` plus every term of (B, N + 1) scores, whose entries are in the order of their columns."""

    def total(a: int, b: int) -> Tensor:
        found = score(a, b)
        for term in terms:
            first, last = torch.searchsorted(term.columns, torch.tensor([a, b], device=term.columns.device)).tolist()
            places = (term.rows[first:last], term.columns[first:last] - a)
            found[places] = found[places] + term.values[first:last]
        return found

    return total if terms else score
