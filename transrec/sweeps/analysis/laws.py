"""Laws: the functional forms in which an error may fall as a size grows.

A law gives the logarithm of the error at centred log sizes u. Parameters that must be positive are kept as logarithms,
so that sums become sums of exponentials, no start overflows, and a law cannot turn negative.

Shape letters: ... any number of fits at once, n points, s size axes, p parameters.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_SHARE = 1e-3  # the smallest E distinguishable from 0, as a share of the smallest error
_STEEPEST = 4.0  # a larger exponent describes a step, not a law
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
    """E plus terms that fall with the sizes, each a level times powers of the sizes of its axes.

    Each axis has one exponent, which is the same in all terms.
    """

    name: str = "power law"
    formula: str = "E + A·D^-α"
    parameters: tuple[str, ...] = ("E", "A", "α")
    terms: tuple[tuple[int, ...], ...] = ((0,),)  # the axes of each term; `theta` has them in the order of `parameters`

    @cached_property
    def axes(self) -> int:
        return 1 + max(max(term) for term in self.terms)

    @cached_property
    def _levels(self) -> list[int]:
        return [place for place, name in enumerate(self.parameters) if name in "ABC"]

    @cached_property
    def _slopes(self) -> list[int]:
        return [place for place, name in enumerate(self.parameters) if name in "αβ"]

    def evaluate(self, theta: Floats, u: Floats) -> tuple[Floats, Floats]:
        summands = [np.broadcast_to(theta[..., :1], (*theta.shape[:-1], len(u)))]
        for level, term in zip(self._levels, self.terms, strict=True):
            fall = sum(theta[..., self._slopes[axis], None] * u[:, axis] for axis in term)
            summands.append(theta[..., level, None] - fall)
        value, shares = _log_sum(summands)
        slopes: list[Floats] = [np.zeros_like(value)] * len(self.parameters)
        slopes[0] = shares[0]
        for level, term, share in zip(self._levels, self.terms, shares[1:], strict=True):
            slopes[level] = share
            for axis in term:
                slopes[self._slopes[axis]] = slopes[self._slopes[axis]] - share * u[:, axis]
        return value, np.stack(slopes, axis=-1)

    def bounds(self, u: Floats, log_errors: Floats) -> tuple[Floats, Floats]:
        low, high = log_errors.min(), log_errors.max()
        least, most = np.zeros(len(self.parameters)), np.full(len(self.parameters), _STEEPEST)
        least[[0, *self._levels]] = low + np.log(_LEAST_SHARE)
        most[[0, *self._levels]] = [high, *[high + _STEEPEST] * len(self._levels)]
        return least, most

    def starts(self, u: Floats, log_errors: Floats) -> Floats:
        exponents = np.stack(np.meshgrid(*[(0.1, 0.3, 0.8, 1.5)] * self.axes), axis=-1).reshape(-1, self.axes)
        found = []
        for share in (0.05, 0.6, 0.95):
            floor = np.log(share) + log_errors.min()
            above = _log_difference(log_errors, floor) - np.log(len(self.terms))
            for slopes in exponents:
                theta = np.zeros(len(self.parameters))
                theta[0], theta[self._slopes] = floor, slopes
                for level, term in zip(self._levels, self.terms, strict=True):
                    theta[level] = np.mean(above + sum(slopes[axis] * u[:, axis] for axis in term))
                found.append(theta)
        return np.array(found)

    def natural(self, theta: Floats, centre: Floats) -> Floats:
        values = np.array(theta)
        values[..., 0] = np.exp(theta[..., 0])
        for level, term in zip(self._levels, self.terms, strict=True):
            moved = sum(theta[..., self._slopes[axis]] * centre[axis] for axis in term)
            values[..., level] = np.exp(theta[..., level] + moved)
        return values


POWER = PowerLaw()

ADDITIVE = PowerLaw("additive law", "E + A·N^-α + B·D^-β", ("E", "A", "α", "B", "β"), ((0,), (1,)))
"""Hoffmann et al. 2022, equation 2: more of one size cannot make up for a lack of the other."""

MULTIPLICATIVE = PowerLaw("multiplicative law", "E + A·N^-α·D^-β", ("E", "A", "α", "β"), ((0, 1),))
"""Zhang et al., "When Scaling Meets LLM Finetuning", ICLR 2024: the larger one size is, the
less the other matters."""

JOINT_LAWS = (ADDITIVE, MULTIPLICATIVE)

COMBINED = PowerLaw(
    "combined law", "E + A·N^-α + B·D^-β + C·N^-α·D^-β", ("E", "A", "α", "B", "β", "C"), ((0,), (1,), (0, 1))
)
"""The additive law with a term for both sizes together. Without the terms for a single size, the multiplicative law."""


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
