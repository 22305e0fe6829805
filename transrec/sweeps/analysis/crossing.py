"""The size from which one method beats another: where their error curves cross, with its uncertainty.

Between measured sizes, the difference of errors is interpolated linearly in the logarithm of the size; it is not
extrapolated.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transrec.sweeps.analysis.laws import Floats
from transrec.sweeps.analysis.resampling import Resampled, interval, shared_draws

_CERTAIN = 0.95


@dataclass(frozen=True)
class Crossing:
    """The size at which two error curves cross, if they do so once.

    `ahead` is 1 if the first curve has the smaller error at the smallest size at which they differ, -1 if the second
    has, and 0 if they are equal everywhere.
    """

    ahead: int
    size: float | None  # None: the measured curves do not cross, or do so more than once
    low: float | None  # 95 % interval of the size, among draws that cross once
    high: float | None
    share: float  # share of draws with the same `ahead` and `crossings` as the measured curves
    crossings: int  # number of crossings of the measured curves

    @property
    def times(self) -> str:
        return {0: "never cross", 1: "cross once"}.get(self.crossings, f"cross {self.crossings} times")

    @property
    def certain(self) -> bool:
        return self.share >= _CERTAIN


def crossing(sizes: Floats, differences: list[Resampled], seed: int = 0) -> Crossing:
    """Find where two error curves cross.

    Args:
        sizes: (m,) ascending.
        differences: error of the first curve minus that of the second at each size, with an entry per seed.
    """
    u = np.log(sizes)
    measured = np.array([difference.values.mean() for difference in differences])
    draws = _draws(differences, np.random.default_rng(seed))
    changes, first = _changes(measured), _signs(measured)[0]
    ahead = -int(first)
    alike = (_changes(draws) == changes) & (_signs(draws)[:, 0] == first)
    share = float(alike.mean())
    if changes != 1:
        return Crossing(ahead, None, None, None, share, int(changes))
    places = [_place(u, row) for row in draws[alike]]
    low, high = interval(np.exp(places)) if places else (None, None)
    return Crossing(ahead, float(np.exp(_place(u, measured))), low, high, share, 1)


def _draws(differences: list[Resampled], rng: np.random.Generator) -> Floats:
    """Draws (R, m) as by `mean_draws`, but with the spread of seeds pooled over sizes, each of which has few seeds."""
    counts = np.array([len(difference.values) for difference in differences])
    means = np.stack([shared_draws(difference) for difference in differences], axis=1)
    degrees = int((counts - 1).sum())
    if degrees == 0:
        return means
    squares = sum(((difference.values - difference.values.mean()) ** 2).sum() for difference in differences)
    spread = np.sqrt(squares / rng.chisquare(degrees, size=(len(means), 1)))
    found: NDArray[np.float64] = means + spread * rng.standard_normal(means.shape) / np.sqrt(counts)
    return found


def _signs(differences: Floats) -> Floats:
    """Signs along the last axis; a zero takes the sign before it or, at the start, the sign after it."""
    signs = np.sign(differences)
    sizes = range(signs.shape[-1])
    for i, beside in [*pairwise(sizes), *pairwise(reversed(sizes))]:
        signs[..., beside] = np.where(signs[..., beside] == 0, signs[..., i], signs[..., beside])
    return signs


def _changes(differences: Floats) -> np.ndarray:
    """The number of changes of sign along the last axis."""
    found: NDArray[np.generic] = (np.diff(_signs(differences), axis=-1) != 0).sum(axis=-1)
    return found


def _place(u: Floats, difference: Floats) -> float:
    """The log size at which a difference with one change of sign is zero."""
    i = int(np.flatnonzero(np.diff(_signs(difference)) != 0)[0])
    return float(u[i] + (u[i + 1] - u[i]) * difference[i] / (difference[i] - difference[i + 1]))
