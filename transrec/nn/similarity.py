"""Similarity of a candidate to a history in a space that is not trained.

Shape letters: U distinct items, B candidates, L items of their histories, W width of the space.
"""

import math

import torch
from torch import Tensor

STATISTICS = 4
TEMPERATURE = 0.2  # cosines of centred features differ by tenths


@torch.no_grad()
def similarity_statistics(vectors: Tensor, known: Tensor, candidates: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    """(B, 4): whether there is anything to compare, the mean and the maximum of the cosines, and their kernel.

    Cosines are divided by τ = 0.2, which makes them as large as logits. The kernel is log((1 + Σ exp(cos / τ)) /
    (1 + n)) over the n items of the history that have content. If there is nothing to compare, all four are 0.

    Papers: the kernel over frozen vectors as in `evidence.content_similarity`; statistics of a candidate's cosines as
    inputs of a ranking model as in SimTier (arXiv 2407.19467), which counts them in bins instead.

    Args:
        vectors: (U, W) features minus their mean over all items, scaled to unit length.
        known: (U,) bool, items with content.
        candidates: (B,) rows.
        history: (B, L) rows.
        mask: (B, L) bool.
    """
    known_BL = mask & known[history] & known[candidates].unsqueeze(-1)
    cosines_BL = (vectors[history] @ vectors[candidates].unsqueeze(-1)).squeeze(-1) / TEMPERATURE
    filled_BL = cosines_BL.masked_fill(~known_BL, 0)
    count_B = known_BL.sum(1)
    masked_BL = cosines_BL.masked_fill(~known_BL, -math.inf)
    kernel_B = (masked_BL.exp().sum(1) + 1).log() - (count_B + 1).log()
    largest_B = masked_BL.amax(1)
    some_B = count_B > 0
    columns = [some_B.float(), filled_BL.sum(1) / count_B.clamp(min=1), largest_B.masked_fill(~some_B, 0), kernel_B]
    return torch.stack(columns, dim=1)


def similarity_kernel(*arguments: Tensor) -> Tensor:
    """The last of the `similarity_statistics` alone, (B,)."""
    return similarity_statistics(*arguments)[:, -1]
