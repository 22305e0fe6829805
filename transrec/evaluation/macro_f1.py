"""Macro-F1: the mean over classes of the harmonic mean of precision and recall.

Shape letters: I instances, V distinct (true, predicted) pairs, K classes that occur as the true one, r resamples.
"""

import numpy as np
import torch
from torch import Tensor

from transrec.evaluation.metrics import Estimate, bootstrap

MACRO_F1 = "macro_F1"


def macro_f1(
    targets: Tensor, predicted: Tensor, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """F1 = 2 TP / (true + predicted), over the classes that somebody has; a class nobody has is not judged.

    The interval resamples instances; in a resample, a class that is neither true nor predicted counts 0.

    Args:
        targets, predicted: (I,) class numbers.

    Raises:
        ValueError: no instances.
    """
    if not len(targets):
        raise ValueError("macro-F1 needs at least one instance")
    pairs, counts = torch.unique(torch.stack([targets, predicted], dim=1), dim=0, return_counts=True)
    true, guessed = pairs.cpu().numpy().T
    classes = np.unique(true)
    of_true, of_guessed = ((side[:, None] == classes).astype(np.int64) for side in (true, guessed))  # (V, K)
    hits = of_true * of_guessed

    def statistic(counts: np.ndarray) -> np.ndarray:
        f1_rK = 2 * (counts @ hits) / np.maximum(1, counts @ of_true + counts @ of_guessed)
        return f1_rK.mean(axis=1)

    return bootstrap(statistic, counts.cpu().numpy(), confidence, resamples, seed)
