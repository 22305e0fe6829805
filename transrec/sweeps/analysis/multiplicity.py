"""Adjustment of p-values for the number of comparisons in a table."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def written(p: float) -> str:
    """A p-value as text: three digits, or <0.001."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: if all below α are claimed, the probability of a false claim is below α, for any dependence.

    Paper: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p, np.float64)[order]))
    return [float(value) for value in adjusted]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: if all below α are claimed, the expected share of false claims is at most α, if independent.

    Paper: Benjamini and Hochberg, "Controlling the False Discovery Rate", Journal of the Royal Statistical Society B
    1995.
    """
    return [float(value) for value in stats.false_discovery_control(p)] if len(p) else []
