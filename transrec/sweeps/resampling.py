"""How sure a mean over users and seeds is: users are resampled, seeds are not.

Designs considered. Resampling seeds and users both (the pigeonhole bootstrap, Owen 2007) counts what a user does in one
run by chance up to three times, and of three seeds it sees two thirds of the spread and none of the tails. Taken: users
are drawn with replacement, the same draw for all trials tested on them, so that every comparison of trials is paired;
what seeds do beyond that is a variance, estimated free of the users' part and added as Student's draws with as many
degrees of freedom as it was estimated with.

Shape letters: U users, T trials, R draws, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transrec.sweeps.laws import Floats

DRAWS = 1000
_CELLS = 8_000_000  # of users × draws held at once: 64 MB


@dataclass(frozen=True)
class Resampled:
    """A measure of some trials: its means over users, and over users drawn with replacement."""

    values: Floats  # (T,)
    draws: Floats  # (R, T)

    def of(self, trials: Sequence[int]) -> "Resampled":
        return Resampled(self.values[list(trials)], self.draws[:, list(trials)])

    def minus(self, other: "Resampled") -> "Resampled":
        return Resampled(self.values - other.values, self.draws - other.draws)


def resample(per_user: Sequence[Floats], seed: int, draws: int = DRAWS) -> Resampled:
    """Means of trials tested on the same users, in the same order: T vectors (U,)."""
    users = len(per_user[0])
    values = np.stack(per_user, axis=1).astype(np.float64)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // users)
    means = []
    for first in range(0, draws, step):
        drawn = rng.integers(users, size=(min(step, draws - first), users))
        counts = np.stack([np.bincount(row, minlength=users) for row in drawn])
        means.append(counts @ values / users)
    return Resampled(values.mean(axis=0), np.concatenate(means))


def seed_variance(seeds: Resampled) -> float:
    """Variance between runs that differ in their seed alone, free of what resampled users explain of it; 0 of one run."""
    if len(seeds.values) < 2:
        return 0.0
    by_users = (seeds.draws - seeds.values).var(axis=1, ddof=1).mean()
    return max(0.0, float(seeds.values.var(ddof=1) - by_users))


def mean_draws(seeds: Resampled, rng: np.random.Generator) -> Floats:
    """Draws (R,) of the mean over seeds (S runs): users resampled, the seeds' part from Student's distribution."""
    count = len(seeds.values)
    means = seeds.draws.mean(axis=1)
    if count < 2:
        return means
    return means + np.sqrt(seed_variance(seeds) / count) * rng.standard_t(count - 1, size=len(means))


def interval(draws: Floats, confidence: float = 0.95) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
