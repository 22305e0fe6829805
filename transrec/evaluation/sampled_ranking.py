"""Rank of the target among 99 other sampled items: the protocol of the PeterRec paper, only for comparison with it.

Its values differ from those of the full ranking, and it may order models differently (Krichene and Rendle, KDD 2020),
so the names of its metrics have a prefix, as in `sampled_99_HR@5`.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), X items left out, S sampled items.
"""

import numpy as np
import torch
from torch import Tensor

from transrec.protocols import Score

SAMPLED = "sampled_99_"
_OTHERS = 99


def sampled_candidates(users: Tensor, targets: Tensor, left_out: Tensor, candidates: Tensor) -> Tensor:
    """(B, 100) item indices: the target and 99 other candidates, 0 where there are fewer, without `left_out`.

    They depend on the user and the target alone, so every model gets the same questions.

    Args:
        users: (B,) user numbers.
        targets: (B,) item indices.
        left_out: (B, X) item indices, 0 where padded.
        candidates: (N + 1,) bool.
    """
    possible = candidates.nonzero().squeeze(1).numpy()
    sampled = torch.zeros((len(users), 1 + _OTHERS), dtype=torch.int64)
    sampled[:, 0] = targets
    for row, (user, target) in enumerate(zip(users.tolist(), targets.tolist(), strict=True)):
        barred = np.append(left_out[row].numpy(), target)
        count = min(len(possible), _OTHERS + len(barred))
        drawn = np.random.default_rng((user, target)).choice(possible, count, replace=False)
        others = drawn[~np.isin(drawn, barred)][:_OTHERS]
        sampled[row, 1 : 1 + len(others)] = torch.from_numpy(others)
    return sampled


def restricted(score: Score, sampled: Tensor) -> Score:
    """Scores where all items except the `sampled` (B, S), 0 where padded, get -inf."""

    def within(a: int, b: int) -> Tensor:
        scores = score(a, b).float()
        rows, places = ((sampled >= a) & (sampled < b)).nonzero(as_tuple=True)
        columns = sampled[rows, places] - a
        kept = torch.full_like(scores, -torch.inf)
        kept[rows, columns] = scores[rows, columns]
        return kept

    return within
