"""Which of two trained alike is better, and by how much: paired by user and by seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from transrec.sweeps.analysis.resampling import Resampled, interval, mean_draws

MARGIN = 0.05

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """A measure of one against a baseline: means over seeds, their difference, and what can be said of it."""

    value: float
    baseline: float
    low: float  # of the difference, 95 %
    high: float
    share: float  # of draws on the other side of zero, doubled: what a p-value would be
    margin: float  # within which they count as equivalent, in the unit of the measure
    equivalent: bool  # two one-sided tests at 5 %: the 90 % interval lies within the margin
    seeds: int
    higher_is_better: bool

    @property
    def difference(self) -> float:
        return self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """ "equivalent" also of a difference that is certain but smaller than the margin."""
        if self.equivalent:
            return "equivalent"
        if self.low <= 0 <= self.high:
            return "undecided"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def compare(
    trials: Resampled, baseline: Resampled, higher_is_better: bool, margin: float = MARGIN, seed: int = 0
) -> Comparison:
    """Difference of the means over seeds; entry s of both has the same seed and was tested on the same users.

    Args:
        margin: relative to the baseline's mean or, of a metric above a half, to what it lacks of one: 0.95 and 0.975
            differ by half of all errors.
    """
    draws = mean_draws(trials.minus(baseline), np.random.default_rng(seed))
    low, high = interval(draws)
    reference = float(baseline.values.mean())
    absolute = margin * (min(reference, 1 - reference) if higher_is_better else abs(reference))
    inner = interval(draws, 0.9)
    return Comparison(
        value=float(trials.values.mean()),
        baseline=reference,
        low=low,
        high=high,
        share=min(1.0, 2 * float(min((draws <= 0).mean(), (draws >= 0).mean()))),
        margin=absolute,
        equivalent=-absolute < inner[0] and inner[1] < absolute,
        seeds=len(trials.values),
        higher_is_better=higher_is_better,
    )
