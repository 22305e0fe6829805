"""Sparse terms, such as evidence, that are added to an objective's logits.

Shape letters: B users, P positions of a user, S scored positions of all users, U items of the pool, K items of a
position, C items of the pool.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from transrec.data.batch import SequenceBatch, SparseScores

Terms = Sequence[SparseScores]  # of (S, U) matrices


def added(logits: Tensor, terms: Terms) -> Tensor:
    """Logits (S, U) plus every term."""
    if not terms:
        return logits
    # Flat, and all terms at once: logits are the largest tensor of a step, and each addition copies them.
    places = torch.cat([term.rows * logits.shape[1] + term.columns for term in terms])
    return logits.flatten().index_add(0, places, torch.cat([term.values for term in terms])).view_as(logits)


def among(terms: Terms, items: Tensor, width: int) -> list[SparseScores]:
    """The columns `items` (C,) of the terms, which are distinct, as terms to add to (S, C) matrices; `width` is U."""
    place = torch.full((width,), -1, device=items.device)
    place[items] = torch.arange(len(items), device=items.device)
    places = [place[term.columns] for term in terms]  # other columns become zeros at 0: their number is not known here
    pairs = zip(terms, places, strict=True)
    return [SparseScores(t.rows, p.clamp(min=0), t.values.masked_fill(p < 0, 0)) for t, p in pairs]


def added_to_pairs(positive: Tensor, negative: Tensor, terms: Terms, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Logits of targets (B, P) and of negatives (B, P, K) plus every term."""
    scored, width = batch.scored, len(batch.content.items)
    of_targets, of_negatives = batch.targets.flatten()[scored].unsqueeze(1), batch.negatives.flatten(0, 1)[scored]
    positive_N = positive.flatten().index_add(0, scored, at(terms, of_targets, width).squeeze(1))
    negative_NK = negative.flatten(0, 1).index_add(0, scored, at(terms, of_negatives, width))
    return positive_N.view_as(positive), negative_NK.view_as(negative)


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
