"""Similarity of a candidate to a history in a space that is not trained.

Shape letters: B candidates, L items of their histories, W width of the space.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.nn.readout import softmax_over

STATISTICS = 4
TEMPERATURE = 0.1  # cosines of texts differ by tenths


def similarity_statistics(candidates: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    """(B, 4): whether there is anything to compare, and the mean, the maximum and the soft maximum of the cosines.

    Cosines are divided by 0.1, which makes them as large as logits. A vector of zeros, an item without content, is
    like nothing: its cosines are left out. Without a single cosine, all four are 0.

    Papers: the kernel exp(cos / τ) over frozen vectors as in `evidence.content_similarity`; statistics of a candidate's
    cosines as inputs of a ranking model as in SimTier (arXiv 2407.19467), which counts them in bins instead.

    Args:
        candidates: (B, W).
        history: (B, L, W).
        mask: (B, L) bool.
    """
    known_BL = mask & (history != 0).any(-1) & (candidates != 0).any(-1, keepdim=True)
    cosines_BL = (F.normalize(history, dim=-1) @ F.normalize(candidates, dim=-1).unsqueeze(-1)).squeeze(
        -1
    ) / TEMPERATURE
    filled_BL = cosines_BL.masked_fill(~known_BL, 0)
    count_B = known_BL.sum(1)
    soft_B = (softmax_over(known_BL, cosines_BL) * filled_BL).sum(1)
    largest_B = cosines_BL.masked_fill(~known_BL, -math.inf).amax(1)
    some_B = count_B > 0
    columns = [some_B.float(), filled_BL.sum(1) / count_B.clamp(min=1), largest_B.masked_fill(~some_B, 0), soft_B]
    return torch.stack(columns, dim=1)
