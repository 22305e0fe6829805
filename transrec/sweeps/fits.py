"""A law fitted to measured errors: whether there is one, how sure its parameters are, and whether it predicts.

Noise is what drawn users do to all trials together, which is resampled, and what each trial has alone, its training and
its luck with users, which is what a fit leaves over. A law is chosen by AICc among those that the number of sizes and
trials can tell apart, and its word for sizes beyond the measured ones counts only if, fitted without the largest, it
predicts that one.

Shape letters: n trials, s axes of sizes, p parameters, R draws.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transrec.sweeps.huber import minimise
from transrec.sweeps.laws import BrokenPowerLaw, Constant, Floats, Law, PowerLaw
from transrec.sweeps.resampling import Resampled, interval

Mask = NDArray[np.bool_]

Verdict = Literal["not fitted", "untested", "undecided", "no law", "another law", "law"]

DELTA = 1e-3
FIT_DRAWS = 200
_SPARE, _SPARE_TO_COMPARE = 2, 5  # trials more than parameters
_DECIDED = 2.0  # a smaller difference of AICc decides nothing (Burnham and Anderson 2002, section 2.6)


@dataclass(frozen=True)
class Fit:
    law: Law
    theta: Floats  # (p,)
    centre: Floats  # (s,) mean log sizes
    degrees: int  # of freedom that residuals have

    @property
    def parameters(self) -> dict[str, float]:
        values = self.law.natural(self.theta, self.centre)
        return {name: float(value) for name, value in zip(self.law.parameters, values, strict=True)}

    def log_errors(self, sizes: Floats, theta: Floats | None = None) -> Floats:
        """At `sizes` (m, s); for other parameters `theta` (..., p) too: (..., m)."""
        return self.law.evaluate(self.theta if theta is None else theta, np.log(sizes) - self.centre)[0]


@dataclass(frozen=True)
class Extrapolation:
    """The largest size from the others: relative to `predicted`, the 95 % interval a measurement should lie in."""

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
    """All that is to be said of one curve. Without `fit` the reason stands in `why_not`."""

    aicc: dict[str, float]  # of every law that the trials can tell apart
    fit: Fit | None = None
    thetas: Floats | None = None  # (R, p) fits to resampled errors
    extrapolation: Extrapolation | None = None
    why_not: str = ""

    @property
    def verdict(self) -> Verdict:
        """Of AICc: the law it prefers to every other, by more than chance likes to give."""
        if self.fit is None:
            return "not fitted"
        ranking = sorted(self.aicc, key=lambda name: self.aicc[name])
        if self.fit.law.name not in ranking:
            return "untested"
        if len(ranking) > 1 and self.aicc[ranking[1]] - self.aicc[ranking[0]] < _DECIDED:
            return "undecided"
        return {Constant().name: "no law", self.fit.law.name: "law"}.get(ranking[0], "another law")  # type: ignore

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
    """The law nearest to `errors` (n,) at `sizes` (n, s): least sum of Huber losses of log residuals, many starts."""
    centre = np.log(sizes).mean(axis=0)
    u, y = np.log(sizes) - centre, np.log(errors)
    thetas, costs = minimise(law, u, y, law.starts(u, y), delta)
    return Fit(law, thetas[costs.argmin()], centre, max(1, len(y) - len(law.parameters)))


def analyse(sizes: Floats, errors: Resampled, delta: float = DELTA, seed: int = 0) -> Scaling:
    """Fit, choose, resample and check one curve, or a surface over two sizes.

    Args:
        sizes: (n, s) of n trials; trials of one size differ in their seed. s is 1 or 2.
        errors: positive means of the trials.
    """
    law = PowerLaw(sizes.shape[1])
    if not _fittable(law, sizes):
        return Scaling({}, why_not=_too_few(law, sizes))
    if errors.values.min() <= 0:
        return Scaling({}, why_not="an error is zero, which no law of this kind can be")
    found = fit(law, sizes, errors.values, delta)
    rng = np.random.default_rng(seed)
    noisy = _noisy(found, sizes, errors, rng, np.full(len(sizes), True))
    return Scaling(
        aicc={law.name: _aicc(law, sizes, errors.values) for law in _comparable(sizes)},
        fit=found,
        thetas=_refit(found, sizes, noisy, delta),
        extrapolation=_extrapolate(law, sizes, errors, delta, rng) if sizes.shape[1] == 1 else None,
    )


def _fittable(law: Law, sizes: Floats) -> bool:
    """A size more than parameters, three sizes of each axis, and two trials more, to see the noise."""
    parameters = len(law.parameters)
    each = min(len(np.unique(column)) for column in sizes.T)
    return distinct(sizes) > parameters and each >= 3 and len(sizes) >= parameters + _SPARE


def _comparable(sizes: Floats) -> list[Law]:
    """Laws that AICc can judge: of fewer trials it would prefer the constant whatever they say."""
    laws: list[Law] = [Constant(), PowerLaw(sizes.shape[1]), *([BrokenPowerLaw()] if sizes.shape[1] == 1 else [])]
    return [law for law in laws if _fittable(law, sizes) and len(sizes) >= len(law.parameters) + _SPARE_TO_COMPARE]


def _too_few(law: Law, sizes: Floats) -> str:
    parameters = len(law.parameters)
    return (
        f"{law.formula} has {parameters} parameters: it needs {parameters + 1} sizes and {parameters + _SPARE} trials, "
        f"and there are {distinct(sizes)} and {len(sizes)}"
    )


def distinct(sizes: Floats) -> int:
    return len(np.unique(sizes, axis=0))


def _aicc(law: Law, sizes: Floats, errors: Floats) -> float:
    """Akaike's criterion for few points (Hurvich and Tsai 1989), of least squares: the likelihood is Gaussian."""
    residual = np.log(errors) - fit(law, sizes, errors, np.inf).log_errors(sizes)
    n, k = len(errors), len(law.parameters) + 1
    return float(n * np.log(np.mean(residual**2) + 1e-30) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _noisy(found: Fit, sizes: Floats, errors: Resampled, rng: np.random.Generator, known: Mask) -> Floats:
    """Logarithms (R, n) of errors as they would come out again were the law, fitted to the `known` ones, the truth."""
    expected = found.log_errors(sizes)
    squares = ((np.log(errors.values) - expected)[known] ** 2).sum()
    by_users = _shared_noise(np.log(sizes) - found.centre, errors)
    spread = np.sqrt(squares / rng.chisquare(found.degrees, size=(len(by_users), 1)))
    return expected + by_users + spread * rng.standard_normal(by_users.shape)


def _shared_noise(u: Floats, errors: Resampled) -> Floats:
    """What drawn users do to all trials together (R, n): to the level of log errors and to their slope along u.

    What they do to each trial alone is in the residuals of a fit already, and is taken out of level and slope too.
    """
    noise = np.log(np.maximum(errors.draws[:FIT_DRAWS], 1e-300)) - np.log(errors.values)
    directions = np.linalg.qr(np.column_stack([np.ones(len(u)), u]))[0]
    along = noise @ directions
    rest = noise - along @ directions.T
    own = (rest**2).sum(axis=1).mean() / max(1, len(u) - directions.shape[1])
    kept = np.sqrt(np.maximum(0, 1 - own / np.maximum(along.var(axis=0), 1e-300)))
    return (kept * along) @ directions.T


def _refit(found: Fit, sizes: Floats, log_errors: Floats, delta: float) -> Floats:
    """Parameters (R, p) of the same law for each row of errors, from the fit and from slopes beside it."""
    slopes = np.array([1.0 if name in ("α", "β") else 0.0 for name in found.law.parameters])
    starts = [found.theta * (1 + slopes * change) for change in (0.0, 0.7)]
    rows = len(log_errors)
    u = np.log(sizes) - found.centre
    thetas, costs = minimise(
        found.law, u, np.concatenate([log_errors] * len(starts)), np.repeat(starts, rows, axis=0), delta
    )
    best = costs.reshape(len(starts), rows).argmin(axis=0)
    return thetas.reshape(len(starts), rows, -1)[best, np.arange(rows)]


def _extrapolate(
    law: Law, sizes: Floats, errors: Resampled, delta: float, rng: np.random.Generator
) -> Extrapolation | None:
    """Predict the trials of the largest size from those of the others; None where the others are too few."""
    largest = sizes[:, 0] == sizes[:, 0].max()
    if not _fittable(law, sizes[~largest]):
        return None
    found = fit(law, sizes[~largest], errors.values[~largest], delta)
    noisy = _noisy(found, sizes, errors, rng, ~largest)
    thetas = _refit(found, sizes[~largest], noisy[:, ~largest], delta)
    at = sizes[largest][:1]
    predicted = float(found.log_errors(at)[0])
    measured_again = noisy[:, largest].mean(axis=1)
    missed = measured_again - found.log_errors(at, thetas)[:, 0]
    low, high = interval(missed)
    measured = float(np.log(errors.values[largest]).mean())
    return Extrapolation(float(at[0, 0]), *np.exp([predicted, predicted + low, predicted + high, measured]).tolist())
