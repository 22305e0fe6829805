"""Uncertainty of a mean over users and seeds: users are resampled, seeds are not.

Designs considered. Resampling both seeds and users (the pigeonhole bootstrap, Owen 2007) counts the chance result of a
user in one run up to three times, and with three seeds it sees two thirds of their spread and none of the tails.
Resampling users, and adding the variance of seeds beyond what that explains, gives half the width where training adds
little variance, but is too narrow where it adds as much as users do: with five simulated seeds, 95 % intervals cover
89 %. Chosen: users are drawn with replacement, in the same draws for all trials tested on them, so that every
comparison of trials is paired; everything else that differs between runs of one setting (their training, and its
chance results for individual users) is the spread of seeds, and enters as draws from Student's t distribution. Few
seeds give wide intervals, as they should.

Shape letters: U users, I targets, T trials, R draws, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from transrec.evaluation.estimates import Counts, Statistic
from transrec.sweeps.analysis.laws import Floats

Ints = NDArray[np.int64]

DRAWS = 1000
_CELLS = 8_000_000  # targets × draws held at once: 64 MB


@dataclass(frozen=True)
class Resampled:
    """A measure of some trials, over all users and over users drawn with replacement."""

    values: Floats  # (T,)
    draws: Floats  # (R, T)

    def of(self, trials: Sequence[int]) -> "Resampled":
        return Resampled(self.values[list(trials)], self.draws[:, list(trials)])

    def minus(self, other: "Resampled") -> "Resampled":
        return Resampled(self.values - other.values, self.draws - other.draws)


def resample(per_target: Sequence[Floats], seed: int, draws: int = DRAWS, users: Ints | None = None) -> Resampled:
    """Means of trials tested on the same targets, in the same order: T vectors (I,).

    Args:
        users: as in `resample_statistic`; None: every target has a user of its own.
    """
    owners = np.arange(len(per_target[0])) if users is None else users
    return resample_statistic(means(per_target), seed, owners, draws)


def resample_statistic(statistic: Statistic, seed: int, users: Ints, draws: int = DRAWS) -> Resampled:
    """A measure of trials tested on the same targets, in the same order.

    Args:
        statistic: maps counts of the targets (r, I) to the measure of each trial (r, T).
        users: (I,) the user of each target, 0 to U - 1; a user is drawn with all of their targets.
    """
    everyone = int(users.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(users))
    drawn = []
    for first in range(0, draws, step):
        rows = rng.integers(everyone, size=(min(step, draws - first), everyone))
        drawn.append(statistic(np.stack([np.bincount(row, minlength=everyone) for row in rows])[:, users]))
    return Resampled(statistic(np.ones((1, len(users)), np.int64))[0], np.concatenate(drawn))


def means(per_target: Sequence[Floats]) -> Statistic:
    """The statistic whose values (r, T) are the means of T vectors (I,)."""
    values = np.stack(per_target, axis=1).astype(np.float64)

    def statistic(counts: Counts) -> Floats:
        found: NDArray[np.float64] = counts @ values / counts.sum(axis=1, keepdims=True)
        return found

    return statistic


def shared_draws(seeds: Resampled) -> Floats:
    """Draws (R,) of the mean over runs, with only the variation that the choice of users causes in all runs alike."""
    means, centre, count = seeds.draws.mean(axis=1), seeds.values.mean(), len(seeds.values)
    if count < 2 or means.var() == 0:
        found: NDArray[np.float64] = means
        return found
    own = (seeds.draws - seeds.values).var(axis=1, ddof=1).mean() / count
    drawn: NDArray[np.float64] = centre + np.sqrt(max(0.0, 1 - own / means.var())) * (means - centre)
    return drawn


def mean_draws(seeds: Resampled, rng: np.random.Generator) -> Floats:
    """Draws (R,) of the mean over runs that differ in their seed; for a single run, over users alone."""
    count, shared = len(seeds.values), shared_draws(seeds)
    if count < 2:
        return shared
    spread = np.sqrt(seeds.values.var(ddof=1) / count)
    found: NDArray[np.float64] = shared + spread * rng.standard_t(count - 1, size=len(shared))
    return found


def p_value(seeds: Resampled) -> float:
    """Twice the probability that the mean over runs is on the other side of zero, under the law of `mean_draws`.

    Student's part of the law is integrated rather than drawn, and for a single run the draws are taken as normal: a
    p-value counted from R draws cannot resolve less than 2 / R, too much after adjustment for many comparisons.
    """
    count, shared = len(seeds.values), shared_draws(seeds)
    spread = np.sqrt(seeds.values.var(ddof=1) / count) if count > 1 else 0.0
    if spread > 0:
        below = float(stdtr(count - 1, -shared / spread).mean())
    elif shared.std() > 0:
        below = float(ndtr(-seeds.values.mean() / shared.std()))
    else:  # no draw differs from the value
        below = float((np.sign(-seeds.values.mean()) + 1) / 2)
    return 2 * min(below, 1 - below)


def mean_interval(seeds: Resampled) -> tuple[float, float]:
    """95 % interval of the mean of a measure; its lower bound is cut at zero, as measures are not negative."""
    low, high = interval(mean_draws(seeds, np.random.default_rng(0)))
    return max(0.0, low), high


def interval(draws: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The central interval that contains a share `confidence` of the draws: (low, high)."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
