"""Laws: the functional forms in which an error may fall as a size grows.

A law gives the logarithm of the error at centred log sizes u. Parameters that must be positive are kept as logarithms,
so that sums become sums of exponentials, no start overflows, and a law cannot turn negative.

Shape letters: ... any number of fits at once, n points, s size axes, p parameters.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_SHARE = 1e-3  # the smallest E distinguishable from 0, as a share of the smallest error
_STEEPEST = 4.0  # larger exponents are a step, not a law
_WIDTH = 0.2  # width of the bend of a broken law, in log size


class Law(Protocol):
    """A functional form. `parameters` are the names in its formula; `theta` is the vector that is fitted."""

    @property
    def name(self) -> str: ...

    @property
    def formula(self) -> str: ...

    @property
    def parameters(self) -> tuple[str, ...]: ...

    def evaluate(self, theta: Floats, u: Floats) -> tuple[Floats, Floats]:
        """log error (..., n) and its derivatives (..., n, p) for `theta` (..., p) at log sizes `u` (n, s)."""

    def bounds(self, u: Floats, log_errors: Floats) -> tuple[Floats, Floats]:
        """Lower and upper bounds of `theta`, (p,) each, given log sizes (n, s) and log errors."""

    def starts(self, u: Floats, log_errors: Floats) -> Floats:
        """Starting values of `theta`, (starts, p)."""

    def natural(self, theta: Floats, centre: Floats) -> Floats:
        """Values of `parameters` for `theta` (..., p), which was fitted to sizes divided by exp(`centre`) (s,)."""


@dataclass(frozen=True)
class Constant:
    """An error that does not depend on size: the null hypothesis for every other law."""

    name: str = "constant"
    formula: str = "E"
    parameters: tuple[str, ...] = ("E",)

    def evaluate(self, theta: Floats, u: Floats) -> tuple[Floats, Floats]:
        shape = (*theta.shape[:-1], len(u))
        return np.broadcast_to(theta[..., :1], shape), np.ones((*shape, 1))

    def bounds(self, u: Floats, log_errors: Floats) -> tuple[Floats, Floats]:
        return np.array([log_errors.min()]), np.array([log_errors.max()])

    def starts(self, u: Floats, log_errors: Floats) -> Floats:
        return np.array([[np.median(log_errors)]])

    def natural(self, theta: Floats, centre: Floats) -> Floats:
        return np.exp(theta)


@dataclass(frozen=True)
class PowerLaw:
    """E + A·D^-α, and with two sizes E + A·N^-α + B·D^-β (Hoffmann et al. 2022, equation 2)."""

    axes: int = 1

    @property
    def name(self) -> str:
        return "power law" if self.axes == 1 else "joint power law"

    @property
    def formula(self) -> str:
        return "E + A·D^-α" if self.axes == 1 else "E + A·N^-α + B·D^-β"

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("E", "A", "α", "B", "β")[: 1 + 2 * self.axes]

    def evaluate(self, theta: Floats, u: Floats) -> tuple[Floats, Floats]:
        terms = [np.broadcast_to(theta[..., :1], (*theta.shape[:-1], len(u)))]
        terms += [theta[..., 1 + 2 * s, None] - theta[..., 2 + 2 * s, None] * u[:, s] for s in range(self.axes)]
        value, shares = _log_sum(terms)
        columns = [shares[0]]
        for s in range(self.axes):
            columns += [shares[1 + s], -shares[1 + s] * u[:, s]]
        return value, np.stack(columns, axis=-1)

    def bounds(self, u: Floats, log_errors: Floats) -> tuple[Floats, Floats]:
        low, high = log_errors.min(), log_errors.max()
        least = low + np.log(_LEAST_SHARE)
        return (
            np.array([least, *[least, 0.0] * self.axes]),
            np.array([high, *[high + _STEEPEST, _STEEPEST] * self.axes]),
        )

    def starts(self, u: Floats, log_errors: Floats) -> Floats:
        exponents = np.stack(np.meshgrid(*[(0.1, 0.3, 0.8, 1.5)] * self.axes), axis=-1).reshape(-1, self.axes)
        found = []
        for share in (0.05, 0.6, 0.95):
            floor = np.log(share) + log_errors.min()
            above = _log_difference(log_errors, floor) - np.log(self.axes)
            for slopes in exponents:
                levels = [np.mean(above + slope * u[:, s]) for s, slope in enumerate(slopes)]
                found.append([floor, *np.stack([levels, slopes], axis=1).ravel()])
        return np.array(found)

    def natural(self, theta: Floats, centre: Floats) -> Floats:
        columns = [np.exp(theta[..., 0])]
        for s in range(self.axes):
            level, slope = theta[..., 1 + 2 * s], theta[..., 2 + 2 * s]
            columns += [np.exp(level + slope * centre[s]), slope]
        return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class BrokenPowerLaw:
    """A power law whose exponent changes smoothly from α to β at the size d (Caballero et al., ICLR 2023)."""

    name: str = "broken power law"
    formula: str = "E + A·D^-α·(1 + (D/d)^(1/w))^-(β-α)w"
    parameters: tuple[str, ...] = ("E", "A", "α", "β", "d")

    def evaluate(self, theta: Floats, u: Floats) -> tuple[Floats, Floats]:
        floor, level, before, after, place = (theta[..., i, None] for i in range(5))
        beyond = (u[:, 0] - place) / _WIDTH
        bend = _WIDTH * np.logaddexp(0, beyond)
        falling = level - before * u[:, 0] - (after - before) * bend
        value, (of_floor, share) = _log_sum([np.broadcast_to(floor, falling.shape), falling])
        moved = (after - before) / (1 + np.exp(-np.clip(beyond, -50, 50)))
        return value, np.stack([of_floor, share, share * (bend - u[:, 0]), -share * bend, share * moved], axis=-1)

    def bounds(self, u: Floats, log_errors: Floats) -> tuple[Floats, Floats]:
        low, high = PowerLaw().bounds(u, log_errors)
        return np.append(low, [0.0, u.min()]), np.append(high, [_STEEPEST, u.max()])

    def starts(self, u: Floats, log_errors: Floats) -> Floats:
        floor = np.log(0.05) + log_errors.min()
        above = _log_difference(log_errors, floor)
        found = []
        for place in np.quantile(u[:, 0], [0.35, 0.65]):
            for before, after in ((0.05, 0.5), (0.5, 0.05), (0.2, 1.0), (1.0, 0.2)):
                bend = _WIDTH * np.logaddexp(0, (u[:, 0] - place) / _WIDTH)
                found.append([floor, np.mean(above + before * u[:, 0] + (after - before) * bend), before, after, place])
        return np.array(found)

    def natural(self, theta: Floats, centre: Floats) -> Floats:
        power = PowerLaw().natural(theta[..., :3], centre)
        return np.concatenate([power, theta[..., 3:4], np.exp(theta[..., 4:] + centre)], axis=-1)


def _log_sum(terms: list[Floats]) -> tuple[Floats, list[Floats]]:
    """log Σ exp(terms), and the share of each term in the sum."""
    highest = np.maximum.reduce(terms)
    parts = [np.exp(term - highest) for term in terms]
    total = sum(parts)
    return highest + np.log(total), [part / total for part in parts]


def _log_difference(log_errors: Floats, floor: float) -> Floats:
    """log(error − exp(floor)), for a floor below every error."""
    return log_errors + np.log1p(-np.exp(floor - log_errors))
