"""Rank of the target among 99 sampled others: the protocol of PeterRec's paper, for comparison with it alone.

Its values are not those of the full ranking, and models may come in another order (Krichene and Rendle, KDD 2020): so
metrics of it carry its name, `sampled_99_HR@5`.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), X items left out.
"""

import numpy as np
import torch
from torch import Tensor

from transrec.protocols import Score

SAMPLED = "sampled_99_"
_OTHERS = 99


def sampled_candidates(users: Tensor, targets: Tensor, left_out: Tensor, candidates: Tensor) -> Tensor:
    """(B, N + 1) bool: the target and 99 other candidates, or all if there are fewer; none that is left out.

    They follow from the user and the target alone, so every model is asked the same.

    Args:
        users: (B,) numbers of the users.
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
    """Scores with those of all items but the `sampled` (B, N + 1) at -inf."""
    return lambda a, b: score(a, b).float().masked_fill(~sampled[:, a:b], -torch.inf)
