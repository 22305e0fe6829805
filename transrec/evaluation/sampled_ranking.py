"""Rank of the target among 99 sampled others: the protocol of PeterRec's paper, for comparison with it alone.

Its values differ from those of the full ranking, and it may order models differently (Krichene and Rendle, KDD 2020),
so its metrics carry its name, as in `sampled_99_HR@5`.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), X items left out.
"""

import numpy as np
import torch
from torch import Tensor

from transrec.protocols import Score

SAMPLED = "sampled_99_"
_OTHERS = 99


def sampled_candidates(users: Tensor, targets: Tensor, left_out: Tensor, candidates: Tensor) -> Tensor:
    """(B, N + 1) bool: the target and 99 other candidates, or all if there are fewer, without `left_out`.

    They depend on the user and the target alone, so every model gets the same questions.

    Args:
        users: (B,) user numbers.
        targets: (B,) item indices.
        left_out: (B, X) item indices, 0 where padded.
        candidates: (N + 1,) bool.
    """
    possible = candidates.nonzero().squeeze(1).numpy()
    sampled = torch.zeros((len(users), len(candidates)), dtype=torch.bool)
    for row, (user, target) in enumerate(zip(users.tolist(), targets.tolist(), strict=True)):
        barred = np.append(left_out[row].numpy(), target)
        count = min(len(possible), _OTHERS + len(barred))
        drawn = np.random.default_rng((user, target)).choice(possible, count, replace=False)
        sampled[row, drawn[~np.isin(drawn, barred)][:_OTHERS]] = True
        sampled[row, target] = True
    return sampled


def restricted(score: Score, sampled: Tensor) -> Score:
    """Scores where all items except the `sampled` (B, N + 1) get -inf."""
    return lambda a, b: score(a, b).float().masked_fill(~sampled[:, a:b], -torch.inf)
