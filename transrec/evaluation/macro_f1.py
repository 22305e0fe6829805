"""Macro-F1: the mean over classes of the harmonic mean of precision and recall.

Shape letters: I instances, V distinct (true, predicted) pairs, K classes that occur as a true class, r resamples.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from transrec.evaluation.estimates import USUAL, Counts, Estimate, Interval, Statistic, bootstrap


def macro_f1(targets: Tensor, predicted: Tensor, interval: Interval = USUAL) -> Estimate:
    """F1 = 2 TP / (true + predicted), averaged over the classes that are true for some instance.

    The interval resamples instances; in a resample, a class that is neither true nor predicted counts as 0.

    Args:
        targets, predicted: (I,) class numbers.

    Raises:
        ValueError: there are no instances.
    """
    if not len(targets):
        raise ValueError("macro-F1 needs at least one instance")
    pairs, counts = torch.unique(torch.stack([targets, predicted], dim=1), dim=0, return_counts=True)
    statistic = macro_f1_of(*pairs.cpu().numpy().T)
    return bootstrap(statistic, counts.cpu().numpy(), interval)


def macro_f1_of(targets: NDArray[np.int64], predicted: NDArray[np.int64]) -> Statistic:
    """Macro-F1 (r,) of n targets and predictions, given how often each was drawn (r, n).

    A pair counts for at most two classes, so the sums for each class are products with sparse matrices: memory is
    O(n + K) plus O(r K) per call.
    """
    classes, true = np.unique(targets, return_inverse=True)
    called = np.searchsorted(classes, predicted).clip(max=len(classes) - 1)
    judged = np.flatnonzero(classes[called] == predicted)  # the others predict a class that is never true
    rows, shape = np.arange(len(targets)), (len(targets), len(classes))
    right = judged[called[judged] == true[judged]]
    hits = _indicator(right, true[right], shape)
    occurrences = _indicator(rows, true, shape) + _indicator(judged, called[judged], shape)

    def statistic(counts: Counts) -> NDArray[np.float64]:
        # Contiguous, because the order of summation in a mean depends on the memory layout.
        tp, either = (np.ascontiguousarray(counts @ matrix) for matrix in (hits, occurrences))
        found: NDArray[np.float64] = np.divide(2 * tp, either, out=np.zeros_like(tp), where=either > 0).mean(axis=-1)
        return found

    return statistic


def _indicator(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
