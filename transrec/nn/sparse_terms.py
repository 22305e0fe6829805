"""Scores with sparse terms added to them.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), E entries of a term, P pairs of a user and an item.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.protocols import Score


class SparseTerm:
    """A term of (B, N + 1) scores, whose entries are in the order of their columns."""

    def __init__(self, scores: SparseScores) -> None:
        self.scores = scores

    @cached_property
    def _columns(self) -> Tensor:
        """(E,) in the memory of the host, where a chunk's entries are found without waiting for the device."""
        return self.scores.columns.cpu()

    @cached_property
    def largest(self) -> Tensor:
        """() the largest absolute value."""
        values = self.scores.values
        return values.detach().abs().amax() if len(values) else values.new_zeros(())

    def add_to(self, scores: Tensor, a: int, b: int) -> None:
        """Add the columns a..b-1 to `scores` (B, b - a), in place."""
        first, last = torch.searchsorted(self._columns, torch.tensor([a, b])).tolist()
        places = (self.scores.rows[first:last], self.scores.columns[first:last] - a)
        scores[places] = scores[places] + self.scores.values[first:last]

    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        """(P,) the values of users `rows` and `items`, 0 where there are none."""
        keys, order = self._keys
        if not len(keys):
            return torch.zeros(len(rows), device=rows.device)
        wanted = _key(rows, items)
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[found] == wanted, self.scores.values[order[found]], 0.0)

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """(E,) the place of each entry as one number, ascending, and where the entry is."""
        keys, order = torch.sort(_key(self.scores.rows, self.scores.columns))
        return keys, order


def _key(rows: Tensor, items: Tensor) -> Tensor:
    return (items << 32) + rows


def join_terms(terms: Sequence[SparseTerm], firsts: Sequence[int]) -> SparseTerm:
    """The term of the users of all `terms`, those of term n from row `firsts[n]` on."""
    pairs = list(zip((term.scores for term in terms), firsts, strict=False))
    columns = torch.cat([scores.columns for scores, _ in pairs])
    rows, values = torch.cat([s.rows + first for s, first in pairs]), torch.cat([s.values for s, _ in pairs])
    columns, order = torch.sort(columns, stable=True)
    return SparseTerm(SparseScores(rows[order], columns, values[order]))


def with_terms(score: Score, terms: Sequence[SparseScores]) -> Score:
    """`score` plus every term of (B, N + 1) scores, whose entries are in the order of their columns."""
    added = [SparseTerm(term) for term in terms]

    def total(a: int, b: int) -> Tensor:
        found = score(a, b)
        for term in added:
            term.add_to(found, a, b)
        return found

    return total if terms else score
