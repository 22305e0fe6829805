"""Scores as inner products, rounded independently of an item's position in the catalogue, plus sparse terms.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), D width, n items of a chunk, P pairs of a user and an
item, E entries of a term.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.data.batch import SparseScores
from transrec.nn.sparse_terms import JoinedTerm, SparseTerm
from transrec.protocols import BoundedScore

_ROUNDOFF = 2.0**-24  # of float32
# The error, in the same unit, of products whose inputs are cut to TF32 or bfloat16, by PyTorch's precision setting.
_CUT_INPUTS = {"highest": 0.0, "high": 2.0**14, "medium": 2.0**17}
_PAIRS_AT_ONCE = 2**22  # numbers of vectors held in float64: 64 MiB of users and items


class InnerProducts(BoundedScore):
    """Inner products of user vectors (B, D) with rows of the item matrix (N + 1, D), as float32, plus `terms`.

    A product is accumulated in float64 and rounded once; terms are then added in float32, one after the other. A call
    takes 12 bytes per score (B, n) and 8 bytes per entry of its item rows (n, D).

    Args:
        unit: scale the item rows to length 1, a chunk at a time, so that the matrix is not copied.
        lengths: (N + 1,) the result of `item_lengths`, if it is already known.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        terms: Sequence[SparseScores] = (),
        unit: bool = False,
        lengths: Tensor | None = None,
    ) -> None:
        self.users, self.items, self.unit = users, items, unit
        self.terms: list[SparseTerm | JoinedTerm] = [SparseTerm(term) for term in terms]
        self._known_lengths = lengths
        self._memory = users.new_empty(0, dtype=torch.float32)

    def __call__(self, a: int, b: int) -> Tensor:
        return self._with_terms((self.users.double() @ self._rows(slice(a, b)).double().T).float(), a, b)

    def rough(self, a: int, b: int) -> Tensor:
        if self._memory.shape != (len(self.users), b - a):
            self._memory = self.users.new_empty((len(self.users), b - a), dtype=torch.float32)
        torch.mm(self._users, self._rows(slice(a, b)).detach().float().T, out=self._memory)
        return self._with_terms(self._memory, a, b)

    def margin(self, a: int, b: int) -> Tensor:
        """A float32 product of width D is off by at most D · 2^-24 times the lengths of both vectors, in any order of
        summation (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); the rounding of the exact
        score and of each sum with a term adds one such unit of the largest number that occurs."""
        return torch.addcmul(self._margin_of_terms, self._margin_of_users, self.lengths[a:b].amax())

    @cached_property
    def lengths(self) -> Tensor:
        """(N + 1,) the length of each item row."""
        return item_lengths(self.items, self.unit) if self._known_lengths is None else self._known_lengths

    @cached_property
    def _users(self) -> Tensor:
        return self.users.detach().float()

    @cached_property
    def _margin_of_users(self) -> Tensor:
        """(B, 1) for item rows of length 1."""
        lengths: Tensor = torch.linalg.vector_norm(self._users, dim=1, keepdim=True)
        return self._roundings * lengths

    @cached_property
    def _margin_of_terms(self) -> Tensor:
        """() the part of the bound that is due to the terms."""
        return self._roundings * sum((term.largest for term in self.terms), self._users.new_zeros(()))

    @property
    def _roundings(self) -> float:
        """The largest relative error of a score."""
        cut = _CUT_INPUTS[torch.get_float32_matmul_precision()]
        return 1.01 * _ROUNDOFF * (self.users.shape[1] + 4 + 2 * len(self.terms) + cut)

    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        step = max(1, _PAIRS_AT_ONCE // self.users.shape[1])
        pieces = zip(rows.split(step), items.split(step), strict=True)
        found = torch.cat([(self.users[r].double() * self._rows(i).double()).sum(1).float() for r, i in pieces])
        for term in self.terms:
            found = found + term.at(rows, items)
        return found

    def joined(self, others: Sequence["InnerProducts"]) -> "InnerProducts":
        every = [self, *others]
        users = torch.cat([one.users for one in every])
        whole = InnerProducts(users, self.items, unit=self.unit, lengths=self.lengths)
        firsts = [0, *torch.tensor([len(one.users) for one in every]).cumsum(0).tolist()]
        whole.terms = [
            JoinedTerm(terms, firsts[:-1], len(users)) for terms in zip(*(one.terms for one in every), strict=True)
        ]
        return whole

    def _rows(self, which: slice | Tensor) -> Tensor:
        rows = self.items[which]
        return F.normalize(rows, dim=-1) if self.unit else rows

    def _with_terms(self, scores: Tensor, a: int, b: int) -> Tensor:
        for term in self.terms:
            term.add_to(scores, a, b)
        return scores


def item_lengths(items: Tensor, unit: bool = False) -> Tensor:
    """(N + 1,) the length of each row; 1 for every row if `unit`, which means that rows are normalized."""
    if unit:
        return items.new_ones(len(items), dtype=torch.float32)
    lengths: Tensor = torch.linalg.vector_norm(items.detach().float(), dim=1)
    return lengths
