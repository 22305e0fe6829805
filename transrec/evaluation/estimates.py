"""Values over users with confidence intervals: the bootstrap, and Student's interval of a mean.

In a task, a user may have several targets; the bootstrap draws them together.

Shape letters: I targets, U users, V distinct per-user values, R resamples, r resamples held at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

Counts = NDArray[np.int64]
Statistic = Callable[[Counts], NDArray[np.float64]]  # counts of draws of n things (r, n) -> values (r,)

_RESAMPLED_COUNTS = 4_000_000  # int64 counts held at once by the bootstrap: 32 MB


@dataclass(frozen=True)
class Interval:
    """The settings of a confidence interval.

    Raises:
        ValueError: the confidence is outside (0, 1), or there are no resamples.
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence {self.confidence}: expected a number between 0 and 1, such as 0.95")
        if self.resamples < 1:
            raise ValueError(f"resamples {self.resamples}: expected at least 1")

    @property
    def ends(self) -> tuple[float, float]:
        """The two quantiles that bound the interval."""
        return (1 - self.confidence) / 2, (1 + self.confidence) / 2


USUAL = Interval()


@dataclass(frozen=True)
class Estimate:
    """A value over users and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Statistic, counts: Counts, interval: Interval = USUAL, cells: int | None = None) -> Estimate:
    """A statistic of users and its percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Drawing U users with replacement and counting each distinct value is one multinomial draw over the V values, so the
    exact bootstrap costs O(R V) for any U.

    Args:
        statistic: from counts (r, V) to values (r,).
        counts: (V,) number of users with each distinct value.
        cells: how many numbers the statistic holds in memory for one resample; None: V.
    """
    users, generator = counts.sum(), np.random.default_rng(interval.seed)
    step = max(1, _RESAMPLED_COUNTS // (cells or len(counts)))
    values = [
        statistic(generator.multinomial(users, counts / users, size=min(step, interval.resamples - start)))
        for start in range(0, interval.resamples, step)
    ]
    low, high = np.quantile(np.concatenate(values), interval.ends)
    return Estimate(float(statistic(counts[None])[0]), float(low), float(high))


def bootstrap_targets(statistic: Statistic, users: Tensor, interval: Interval = USUAL) -> Estimate:
    """A statistic of targets and its interval; users are resampled, each with all of their targets.

    Args:
        statistic: from counts of the targets (r, I) to values (r,).
        users: (I,) number of the user of each target.
    """
    rows = torch.unique(users, return_inverse=True)[1].cpu().numpy()
    everyone = np.ones(int(rows.max()) + 1, np.int64)
    return bootstrap(lambda counts: statistic(counts[:, rows]), everyone, interval, cells=len(rows))


def bootstrap_mean(values: Tensor, users: Tensor | None, interval: Interval = USUAL) -> Estimate:
    """The mean of `values` (I,) over targets, with users resampled; faster than `bootstrap_targets` if values repeat.

    Args:
        users: (I,) number of the user of each target; None: all users differ.
    """
    pairs = torch.stack(_summed(values, users), 1)
    distinct, counts = (x.cpu().numpy() for x in torch.unique(pairs, dim=0, return_counts=True))

    def mean(counts: Counts) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (counts @ distinct[:, 0]) / (counts @ distinct[:, 1])
        return found

    return bootstrap(mean, counts, interval)


def student_mean(values: Tensor, confidence: float = USUAL.confidence) -> Estimate:
    """The mean of `values` (I,) with Student's interval; the interval of a single value is the value.

    For a mean of many different numbers, it agrees with the bootstrap interval, which costs far more.
    """
    mean, count = float(values.double().mean()), len(values)
    if count == 1:
        return Estimate(mean, mean, mean)
    margin = float(stdtrit(count - 1, (1 + confidence) / 2) * values.double().std() / count**0.5)
    return Estimate(mean, mean - margin, mean + margin)


def _summed(values: Tensor, users: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum and the number of each user's values, (U,) each."""
    if users is None:
        return values, torch.ones_like(values)
    rows = torch.unique(users, return_inverse=True)[1]
    return torch.bincount(rows, values), torch.bincount(rows).to(values.dtype)
