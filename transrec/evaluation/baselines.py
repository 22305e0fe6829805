"""Untrained baselines that any trained model must beat, as scores for `full_ranking`.

Shape letters: B users of a call, N items (indices 1..N; 0 is padding), H history, n items of a chunk.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from transrec.protocols import Score

Sequences = Iterable[tuple[np.ndarray, np.ndarray]]  # blocks of (items of whole sequences, their lengths)


class Baseline(Protocol):
    """A model that scores targets from a history alone."""

    def for_users(self, history: Tensor) -> Score:
        """Scores for users with `history` (B, H): item indices, oldest first, 0 where padded."""


@dataclass(frozen=True)
class MostPopular:
    """Every user gets the items with the most training interactions."""

    counts: Tensor  # (N + 1,)

    def for_users(self, history: Tensor) -> Score:
        """Scores for users with `history` (B, H); only B is used."""
        counts = self.counts.to(history.device)
        return lambda a, b: counts[a:b].expand(len(history), -1)


@dataclass(frozen=True)
class ItemToItem:
    """First-order transitions: counts of how often a candidate directly followed the user's last `recent` items.

    The item p places from the end has weight 1/p, which beat equal weights on ml-100k and movietweetings. Weights are
    scaled to integers, so sums are exact. Popularity, scaled below 1, then orders only tied candidates (as far as
    float32 can distinguish the scores).
    """

    transitions: sparse.csr_array  # (N + 1, N + 1): entry (i, j) counts j directly after i
    counts: Tensor  # (N + 1,) float32 interactions of each item
    recent: int = 5

    @classmethod
    def fit(cls, sequences: Sequences, catalogue_size: int) -> "ItemToItem":
        """Count items and transitions in one pass over blocks of training sequences.

        Args:
            sequences: blocks (items, lengths): item indices 1..N of whole sequences, concatenated, oldest first, and
                the length of each. Memory holds one block and the distinct transitions.
            catalogue_size: N.

        Raises:
            ValueError: lengths do not add up to the items of their block, or an index is outside 1..N.
        """
        counts = np.zeros(catalogue_size + 1, dtype=np.int64)
        transitions = sparse.csr_array((catalogue_size + 1, catalogue_size + 1), dtype=np.float32)
        for items, lengths in sequences:
            _check_block(items, lengths, catalogue_size)
            counts += np.bincount(items, minlength=catalogue_size + 1)
            transitions += _transitions(items, lengths, catalogue_size)
        return cls(transitions, torch.from_numpy(counts).float())

    def for_users(self, history: Tensor) -> Score:
        """Scores for users with `history` (B, H): item indices, oldest first, 0 where padded (any side)."""
        sums = (self._recent_items(history.cpu()) @ self.transitions).tocsc()
        popularity = self.counts / (self.counts.max() + 1)

        def score(a: int, b: int) -> Tensor:
            return (torch.from_numpy(sums[:, a:b].toarray()) + popularity[a:b]).to(history.device)

        return score

    def _recent_items(self, history: Tensor) -> sparse.csr_array:
        """(B, N + 1) summed weight of each item among the user's last `recent`."""
        real = history > 0
        place = real.flip(1).cumsum(dim=1).flip(1)  # 1 is the last item
        rows, columns = (real & (place <= self.recent)).nonzero(as_tuple=True)
        weights = math.lcm(*range(1, self.recent + 1)) / place[rows, columns].double()
        coordinates = (rows.numpy(), history[rows, columns].numpy())
        shape = (len(history), len(self.counts))
        return sparse.coo_array((weights.numpy(), coordinates), shape=shape).tocsr()


@dataclass(frozen=True)
class Untrained:
    """Scores of evidence alone."""

    scores: Callable[[Tensor], sparse.csr_array]  # histories (B, H), 0 where padded -> (B, N + 1)

    def for_users(self, history: Tensor) -> Score:
        """Scores for users with `history` (B, H): item indices, oldest first, 0 where padded."""
        columns = self.scores(history.cpu()).tocsc()
        return lambda a, b: torch.from_numpy(columns[:, a:b].toarray()).float().to(history.device)


def blend(one: Untrained, other: Untrained, share: float) -> Untrained:
    """`share` times one and the rest of the other, each divided by its largest score of the user."""
    return Untrained(
        lambda history: share * _relative(one.scores(history)) + (1 - share) * _relative(other.scores(history))
    )


def _relative(scores: sparse.csr_array) -> sparse.csr_array:
    most = scores.max(axis=1).toarray().ravel()
    relative = scores.copy()
    relative.data = relative.data / np.repeat(np.where(most > 0, most, 1), np.diff(scores.indptr))
    return relative


def _transitions(items: np.ndarray, lengths: np.ndarray, catalogue_size: int) -> sparse.csr_array:
    """(N + 1, N + 1) counts of neighbours within the sequences of one block."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = owner[1:] == owner[:-1]
    ones = np.ones(int(within.sum()), dtype=np.float32)
    shape = (catalogue_size + 1, catalogue_size + 1)
    return sparse.coo_array((ones, (items[:-1][within], items[1:][within])), shape=shape).tocsr()


def _check_block(items: np.ndarray, lengths: np.ndarray, catalogue_size: int) -> None:
    if lengths.sum() != len(items):
        raise ValueError(f"lengths add up to {lengths.sum()}, the block holds {len(items)} items")
    if len(items) and (items.min() < 1 or items.max() > catalogue_size):
        raise ValueError(f"sequences: expected item indices 1..{catalogue_size}")
