"""Comparison of trials with a baseline, paired by user and by seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from transrec.sweeps.analysis.resampling import Resampled, interval, mean_draws, p_value

MARGIN = 0.05

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """A choice compared with a baseline in one measure: means over seeds, and their difference with its uncertainty."""

    value: float
    baseline: float
    low: float  # bounds of the 95 % interval of the difference
    high: float
    p: float  # p-value: twice the probability that the difference is on the other side of zero
    margin: float  # largest difference that counts as equivalent, in the unit of the measure
    equivalent: bool  # two one-sided tests at 5 %: the 90 % interval lies within the margin
    seeds: int
    higher_is_better: bool

    @property
    def difference(self) -> float:
        return self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """The verdict: "equivalent" if within the margin, even where the interval excludes zero."""
        if self.equivalent:
            return "equivalent"
        if self.low <= 0 <= self.high:
            return "undecided"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def compare(
    trials: Resampled, baseline: Resampled, higher_is_better: bool, margin: float = MARGIN, seed: int = 0
) -> Comparison:
    """Compare the means over seeds; entry s of both has the same seed and was tested on the same users.

    Args:
        margin: relative to the baseline's mean or, for a metric above one half, to one minus that mean, because
            0.975 has half the errors of 0.95.
    """
    differences = trials.minus(baseline)
    draws = mean_draws(differences, np.random.default_rng(seed))
    low, high = interval(draws)
    reference = float(baseline.values.mean())
    absolute = margin * (min(reference, 1 - reference) if higher_is_better else abs(reference))
    inner = interval(draws, 0.9)
    return Comparison(
        value=float(trials.values.mean()),
        baseline=reference,
        low=low,
        high=high,
        p=p_value(differences),
        margin=absolute,
        equivalent=-absolute < inner[0] and inner[1] < absolute,
        seeds=len(trials.values),
        higher_is_better=higher_is_better,
    )
