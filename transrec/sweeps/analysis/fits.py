"""Fits of a law to measured errors: whether there is one, how certain its parameters are, and whether it predicts.

An observation is the mean error at a size, not a trial: all seeds of a size share its training data, so the noise of
that sample is not visible in their spread. The noise consists of the residuals of these means, and of the common effect
of the drawn users on all means, which is resampled. F tests between nested laws decide whether size matters, and
whether the law is sufficient: one power law against a broken one, and over two sizes the additive and the
multiplicative law against both combined, in which each is nested (Bates and Watts 1988, section 3.10). The prediction
of a law for sizes beyond the measured ones counts only if the law, fitted without the largest size, predicts that one.

Designs considered. Trials as observations, with AICc to choose among laws: where seeds shared their data, 95 %
intervals covered 62 % of 40 simulated sweeps, and 10 of these were found to have a break. AICc of the means: with six
sizes it would prefer the constant to a law with a hundredth of the constant's residual sum of squares.

Shape letters: n trials, m sizes, s size axes, p parameters, R draws.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from transrec.sweeps.analysis.huber import minimise
from transrec.sweeps.analysis.laws import (
    ADDITIVE,
    COMBINED,
    MULTIPLICATIVE,
    POWER,
    BrokenPowerLaw,
    Constant,
    Floats,
    Law,
    PowerLaw,
)
from transrec.sweeps.analysis.resampling import Resampled, interval

Mask = NDArray[np.bool_]

Verdict = Literal["not fitted", "undecided", "no law", "another law", "law"]

DELTA = 1e-3
FIT_DRAWS = 200
_SIGNIFICANT, _LIKELY = 0.05, 0.15  # p-values; one between them is undecided
_RICHER = 0.01  # lower, because nested samples of training data share noise, which also bends a curve

RICHER: dict[Law, Law] = {POWER: BrokenPowerLaw(), ADDITIVE: COMBINED, MULTIPLICATIVE: COMBINED}


@dataclass(frozen=True)
class Fit:
    """A law with its best-fitting parameters."""

    law: Law
    theta: Floats  # (p,)
    centre: Floats  # (s,) mean log sizes
    degrees: int  # degrees of freedom of the residuals

    @property
    def parameters(self) -> dict[str, float]:
        values = self.law.natural(self.theta, self.centre)
        return {name: float(value) for name, value in zip(self.law.parameters, values, strict=True)}

    def log_errors(self, sizes: Floats, theta: Floats | None = None) -> Floats:
        """Log errors (m,) at `sizes` (m, s); with other parameters `theta` (..., p), (..., m)."""
        return self.law.evaluate(self.theta if theta is None else theta, np.log(sizes) - self.centre)[0]


@dataclass(frozen=True)
class Extrapolation:
    """The error at the largest size, predicted from the others; `low` and `high` bound 95 % of measurements there."""

    size: float
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def holds(self) -> bool:
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Scaling:
    """The analysis of one curve. Without a `fit`, `why_not` gives the reason."""

    fit: Fit | None = None
    thetas: Floats | None = None  # (R, p) fits to resampled errors
    chance: float = 1.0  # p-value of the law against a constant
    chance_of_richer: float | None = None  # p-value of the law against the richer one of `RICHER`; None: not tested
    extrapolation: Extrapolation | None = None
    why_not: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.fit is None:
            return "not fitted"
        if self.chance >= _SIGNIFICANT:
            return "no law" if self.chance >= _LIKELY else "undecided"
        misses = self.chance_of_richer is not None and self.chance_of_richer < _RICHER
        return "another law" if misses else "law"

    def intervals(self) -> dict[str, tuple[float, float]]:
        assert self.fit is not None
        assert self.thetas is not None
        columns = self.fit.law.natural(self.thetas, self.fit.centre).T
        return {name: interval(column) for name, column in zip(self.fit.law.parameters, columns, strict=True)}

    def band(self, sizes: Floats) -> tuple[Floats, Floats]:
        """95 % interval of the law itself at `sizes` (m, s)."""
        assert self.fit is not None
        low, high = np.quantile(np.exp(self.fit.log_errors(sizes, self.thetas)), [0.025, 0.975], axis=0)
        return low, high


def fit(law: Law, sizes: Floats, errors: Floats, delta: float = DELTA) -> Fit:
    """Fit a law to `errors` (n,) at `sizes` (n, s): least sum of Huber losses of log residuals, from many starts."""
    centre = np.log(sizes).mean(axis=0)
    u, y = np.log(sizes) - centre, np.log(errors)
    thetas, costs = minimise(law, u, y, law.starts(u, y), delta)
    return Fit(law, thetas[costs.argmin()], centre, max(1, len(y) - len(law.parameters)))


def analyse(sizes: Floats, errors: Resampled, delta: float = DELTA, seed: int = 0, law: PowerLaw = POWER) -> Scaling:
    """Fit, test, resample and check a law of one curve, or of a surface over two sizes.

    Args:
        sizes: (n, s) for n trials, with the s axes of the law; trials of one size differ in their seed.
        errors: positive means of the trials.
    """
    sizes, errors = mean_errors(sizes, errors)
    if not _fittable(law, sizes):
        return Scaling(why_not=_too_few(law, sizes))
    if errors.values.min() <= 0:
        return Scaling(why_not="an error is zero, which these laws cannot reach")
    found = fit(law, sizes, errors.values, delta)
    rng = np.random.default_rng(seed)
    noisy = _noisy(found, sizes, errors, rng, np.full(len(sizes), True))
    richer = RICHER[law]
    return Scaling(
        fit=found,
        thetas=_refit(found, sizes, noisy, delta),
        chance=_chance(Constant(), law, sizes, errors.values),
        chance_of_richer=_chance(law, richer, sizes, errors.values) if _fittable(richer, sizes) else None,
        extrapolation=_extrapolate(law, sizes, errors, delta, rng) if law.axes == 1 else None,
    )


def mean_errors(sizes: Floats, errors: Resampled) -> tuple[Floats, Resampled]:
    """The distinct sizes (m, s), and the mean error of the trials at each."""
    points, number = np.unique(sizes, axis=0, return_inverse=True)
    share = np.eye(len(points))[number.ravel()]
    share /= share.sum(axis=0)
    return points, Resampled(errors.values @ share, errors.draws @ share)


def _fittable(law: Law, sizes: Floats) -> bool:
    """Whether there are more sizes than parameters, so that noise can be estimated, and three sizes on each axis."""
    each = min(len(np.unique(column)) for column in sizes.T)
    return len(sizes) > len(law.parameters) and each >= 3


def _too_few(law: Law, sizes: Floats) -> str:
    parameters = len(law.parameters)
    return f"{law.formula}, with {parameters} parameters, needs {parameters + 1} sizes, but there are {len(sizes)}"


def _chance(law: Law, richer: Law, sizes: Floats, errors: Floats) -> float:
    """The p-value of an F test of `law` against `richer`, in which it is nested."""
    left = [
        ((np.log(errors) - fit(form, sizes, errors, np.inf).log_errors(sizes)) ** 2).sum() for form in (law, richer)
    ]
    more, degrees = len(richer.parameters) - len(law.parameters), len(errors) - len(richer.parameters)
    explained = max(0.0, left[0] - left[1]) / more
    return float(stats.f.sf(explained / max(left[1] / degrees, 1e-300), more, degrees))


def _noisy(found: Fit, sizes: Floats, errors: Resampled, rng: np.random.Generator, known: Mask) -> Floats:
    """Log errors (R, m) simulated under the law that was fitted to the `known` ones.

    Drawn users move the errors together; residuals beyond what that explains are independent noise of each size.
    """
    expected = found.log_errors(sizes)
    by_users = np.log(np.maximum(errors.draws[:FIT_DRAWS], 1e-300)) - np.log(errors.values)
    left = ((np.log(errors.values) - expected)[known] ** 2).sum()
    left_by_users = (_residuals(found, sizes[known], by_users[:, known]) ** 2).sum(axis=1).mean()
    own = left / rng.chisquare(found.degrees, size=(len(by_users), 1)) - left_by_users / found.degrees
    drawn: NDArray[np.float64] = expected + by_users + np.sqrt(np.maximum(0, own)) * rng.standard_normal(by_users.shape)
    return drawn


def _residuals(found: Fit, sizes: Floats, noise: Floats) -> Floats:
    """Residuals (R, m) of a least squares fit to `noise` (R, m), with the law linearised in its parameters."""
    slopes = found.law.evaluate(found.theta, np.log(sizes) - found.centre)[1]
    return noise - noise @ slopes @ np.linalg.pinv(slopes.T @ slopes) @ slopes.T


def _refit(found: Fit, sizes: Floats, log_errors: Floats, delta: float) -> Floats:
    """Parameters (R, p) of the same law for each row of errors, starting from the fit and from steeper slopes."""
    slopes = np.array([1.0 if name in ("α", "β") else 0.0 for name in found.law.parameters])
    starts = [found.theta * (1 + slopes * change) for change in (0.0, 0.7)]
    rows = len(log_errors)
    u = np.log(sizes) - found.centre
    thetas, costs = minimise(
        found.law, u, np.concatenate([log_errors] * len(starts)), np.repeat(starts, rows, axis=0), delta
    )
    best = costs.reshape(len(starts), rows).argmin(axis=0)
    drawn: NDArray[np.float64] = thetas.reshape(len(starts), rows, -1)[best, np.arange(rows)]
    return drawn


def _extrapolate(
    law: Law, sizes: Floats, errors: Resampled, delta: float, rng: np.random.Generator
) -> Extrapolation | None:
    """Predict the error at the largest size from the others; None if the others are too few."""
    largest = np.arange(len(sizes)) == len(sizes) - 1
    if not _fittable(law, sizes[~largest]):
        return None
    found = fit(law, sizes[~largest], errors.values[~largest], delta)
    noisy = _noisy(found, sizes, errors, rng, ~largest)
    thetas = _refit(found, sizes[~largest], noisy[:, ~largest], delta)
    at = sizes[largest]
    predicted = float(found.log_errors(at)[0])
    low, high = interval(noisy[:, -1] - found.log_errors(at, thetas)[:, 0])
    measured = float(np.log(errors.values[-1]))
    return Extrapolation(float(at[0, 0]), *np.exp([predicted, predicted + low, predicted + high, measured]).tolist())
