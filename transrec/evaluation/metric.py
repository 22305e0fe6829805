"""The base classes of metrics: the readings they need, which direction is better, and a value with an interval.

Shape letters: I targets or impressions, one row each, r resamples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.evaluation.estimates import (
    USUAL,
    Counts,
    Estimate,
    Interval,
    Statistic,
    bootstrap_mean,
    bootstrap_targets,
)


class Metric(ABC):
    """A number that measures the quality of answers.

    `reads` lists the readings (`evaluation/readings.py`) that it is computed from; methods take one column (I,) for
    each, in that order.
    """

    name: str
    reads: tuple[str, ...]
    higher_is_better: bool | None = True  # None: the metric describes answers, and neither direction is better
    undefined_if: str = ""  # condition under which the value is NaN, if there is one; shown below the table of results

    @abstractmethod
    def statistic(self, *columns: Tensor) -> Statistic:
        """A function that maps how often each target was drawn, (r, I), to the metric of each resample, (r,).

        It is called many times, so whatever does not depend on the draws is computed before it is returned.
        """

    def estimate(self, columns: Sequence[Tensor], users: Tensor | None = None, interval: Interval = USUAL) -> Estimate:
        """The value and its interval; users are resampled, each with all of their targets.

        The result depends only on the columns and the interval's seed, not on other metrics.

        Args:
            users: (I,) number of the user of each target; None: all users differ.

        Raises:
            ValueError: there are no targets, or the columns do not fit the metric.
        """
        owners = torch.arange(len(columns[0])) if users is None else users
        return bootstrap_targets(self.statistic(*columns), owners, interval)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the `best` so far (None: there is none yet).

        NaN is never better, nor is any value if neither direction is.
        """
        if math.isnan(value) or self.higher_is_better is None:
            return False
        return best is None or (value > best if self.higher_is_better else value < best)


class MeanMetric(Metric):
    """The mean over targets of one value per target; a subclass defines `values` instead of `statistic`."""

    @abstractmethod
    def values(self, *columns: Tensor) -> Tensor:
        """The value of each target, (I,) float64."""

    def statistic(self, *columns: Tensor) -> Statistic:
        values = self.values(*columns).cpu().numpy()

        def mean(counts: Counts) -> NDArray[np.float64]:
            found: NDArray[np.float64] = counts @ values / counts.sum(axis=1)
            return found

        return mean

    def estimate(self, columns: Sequence[Tensor], users: Tensor | None = None, interval: Interval = USUAL) -> Estimate:
        return bootstrap_mean(self.values(*columns), users, interval)
