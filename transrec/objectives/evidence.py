"""Sparse terms, such as evidence, that are added to an objective's logits.

Shape letters: S scored positions, U items of the pool, K items per position, C items of the pool.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from transrec.data.batch import SparseScores

Terms = Sequence[SparseScores]  # of (S, U) matrices


def added(logits: Tensor, terms: Terms) -> Tensor:
    """Logits (S, U) plus every term."""
    for term in terms:
        logits = logits.index_put((term.rows, term.columns), term.values, accumulate=True)
    return logits


def among(terms: Terms, items: Tensor, width: int) -> list[SparseScores]:
    """The columns `items` (C,) of the terms, which are distinct, as terms of (S, C) matrices; `width` is U."""
    place = torch.full((width,), -1, device=items.device)
    place[items] = torch.arange(len(items), device=items.device)
    kept = [place[term.columns] >= 0 for term in terms]
    return [SparseScores(t.rows[k], place[t.columns[k]], t.values[k]) for t, k in zip(terms, kept, strict=True)]


def at(terms: Terms, items: Tensor, width: int) -> Tensor:
    """The sum of the terms at the pool items `items` (S, K) of each position, (S, K); `width` is U."""
    wanted = torch.arange(len(items), device=items.device).unsqueeze(1) * width + items
    total = torch.zeros(items.shape, device=items.device)
    for term in terms:
        if len(term.rows):
            places = term.rows * width + term.columns
            found = torch.searchsorted(places, wanted).clamp(max=len(places) - 1)
            total = total + term.values[found] * (places[found] == wanted)
    return total
