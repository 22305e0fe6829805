"""Macro-F1: the mean over classes of the harmonic mean of precision and recall.

Shape letters: I instances, V distinct (true, predicted) pairs, K classes that occur as the true one.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
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
    columns = indicators(*pairs.cpu().numpy().T)
    flat = columns.reshape(len(columns), -1)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return from_sums((counts @ flat).reshape(len(counts), *columns.shape[1:]))

    return bootstrap(statistic, counts.cpu().numpy(), confidence, resamples, seed)


def indicators(targets: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """(n, 2, K) of n targets and predictions: is it a hit of the class; is it of the class, plus is it called so.

    Sums over instances, or means, are all that F1 needs: it can be had of any resample of them.
    """
    classes = np.unique(targets)
    true, called = (np.asarray(side)[:, None] == classes for side in (targets, predicted))
    return np.stack([true & called, true.astype(np.float64) + called], axis=1)


def from_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macro-F1 (…,) of sums or means (…, 2, K) of `indicators`."""
    hits, occurrences = sums[..., 0, :], sums[..., 1, :]
    return np.divide(2 * hits, occurrences, out=np.zeros_like(hits), where=occurrences > 0).mean(axis=-1)
