"""Scores with sparse terms added to them.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), E entries of a term, P pairs of a user and an item.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.protocols import Score


class SparseTerm:
    """A term of (B, N + 1) scores, whose entries are ordered by column and row."""

    def __init__(self, scores: SparseScores) -> None:
        self.scores = scores

    @cached_property
    def _columns(self) -> Tensor:
        """(E,) on the host, so that a chunk's entries are found without waiting for the device."""
        return self.scores.columns.cpu()

    @cached_property
    def largest(self) -> Tensor:
        """() the largest absolute value."""
        values = self.scores.values
        return values.detach().abs().amax() if len(values) else values.new_zeros(())

    def add_to(self, scores: Tensor, a: int, b: int) -> None:
        """Add the columns a..b-1 to `scores` (B, b - a), a contiguous table, in place."""
        first, last = torch.searchsorted(self._columns, torch.tensor([a, b])).tolist()
        places = self.scores.rows[first:last] * (b - a) + self.scores.columns[first:last] - a
        scores.view(-1).scatter_add_(0, places, self.scores.values[first:last])

    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        """(P,) the values of user rows and items, pair by pair; 0 without an entry."""
        keys = self._keys
        if not len(keys):
            return torch.zeros(len(rows), device=rows.device)
        wanted = _key(rows, items)
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[found] == wanted, self.scores.values[found], 0.0)

    @cached_property
    def _keys(self) -> Tensor:
        """(E,) the place of each entry as one number, ascending."""
        return _key(self.scores.rows, self.scores.columns)


def _key(rows: Tensor, items: Tensor) -> Tensor:
    return (items << 32) + rows


class JoinedTerm:
    """One term over the users of several terms, in their order.

    The entries are not merged: sorting them would take longer than all later work on them.

    Args:
        firsts: the row of each term's first user.
        size: the number of users.
    """

    def __init__(self, terms: Sequence["SparseTerm | JoinedTerm"], firsts: Sequence[int], size: int) -> None:
        self._terms, self._firsts, self._size = terms, firsts, size

    @cached_property
    def largest(self) -> Tensor:
        """() the largest absolute value."""
        return torch.stack([term.largest for term in self._terms]).amax()

    def add_to(self, scores: Tensor, a: int, b: int) -> None:
        """Add the columns a..b-1 to `scores` (B, b - a), in place."""
        for term, rows in zip(self._terms, pairwise([*self._firsts, self._size]), strict=True):
            term.add_to(scores[slice(*rows)], a, b)

    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        """(P,) the values of user rows and items, pair by pair; 0 without an entry."""
        pieces = [term.at(rows - first, items) for term, first in zip(self._terms, self._firsts, strict=True)]
        return torch.stack(pieces).sum(dim=0)  # each user has entries in only one term


def with_terms(score: Score, terms: Sequence[SparseScores]) -> Score:
    """`score` plus every term of (B, N + 1) scores, whose entries are ordered by column and row."""
    added = [SparseTerm(term) for term in terms]

    def total(a: int, b: int) -> Tensor:
        found = score(a, b)
        for term in added:
            term.add_to(found, a, b)
        return found

    return total if terms else score
