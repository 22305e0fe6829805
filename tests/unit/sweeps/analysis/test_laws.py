"""Every law: its derivatives against differences, its parameters against the formula a reader sees."""

import numpy as np
import pytest

from transrec.sweeps.analysis.laws import ADDITIVE, COMBINED, MULTIPLICATIVE, BrokenPowerLaw, Constant, Law, PowerLaw

LAWS: dict[str, tuple[Law, list[float]]] = {
    "constant": (Constant(), [-0.5]),
    "power": (PowerLaw(), [-0.5, 0.3, 0.4]),
    "additive": (ADDITIVE, [-0.5, 0.3, 0.4, -0.2, 0.9]),
    "multiplicative": (MULTIPLICATIVE, [-0.5, 0.3, 0.4, 0.9]),
    "combined": (COMBINED, [-0.5, 0.3, 0.4, -0.2, 0.9, -0.7]),
    "broken": (BrokenPowerLaw(), [-1.0, 0.3, 0.2, 0.9, 0.1]),
}
EVERY_LAW = pytest.mark.parametrize(("law", "theta"), LAWS.values(), ids=LAWS)


def sizes_of(law: Law) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, size=(9, getattr(law, "axes", 1)))


@EVERY_LAW
def test_derivatives(law: Law, theta: list[float]) -> None:
    u, at = sizes_of(law), np.array(theta)
    _, jacobian = law.evaluate(at, u)
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = 1e-6
        slope = (law.evaluate(at + step, u)[0] - law.evaluate(at - step, u)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, i], slope, atol=1e-8)


@EVERY_LAW
def test_many_at_once_are_each_alone(law: Law, theta: list[float]) -> None:
    u = sizes_of(law)
    rows = np.array([theta, [0.9 * x for x in theta]])
    together = law.evaluate(rows, u)
    for i, row in enumerate(rows):
        for whole, alone in zip(together, law.evaluate(row, u), strict=True):
            np.testing.assert_array_equal(whole[i], alone)


@EVERY_LAW
def test_starts_lie_within_the_bounds(law: Law, theta: list[float]) -> None:
    u = sizes_of(law)
    errors = law.evaluate(np.array(theta), u)[0]
    starts, (low, high) = law.starts(u, errors), law.bounds(u, errors)
    assert starts.shape[1] == len(law.parameters)
    assert ((starts >= low - 1e-9) & (starts <= high + 1e-9)).mean() > 0.95


def formula(law: Law, p: dict[str, float], sizes: np.ndarray) -> np.ndarray:
    if isinstance(law, Constant):
        return np.full(len(sizes), p["E"])
    if isinstance(law, BrokenPowerLaw):
        bend = (1 + (sizes[:, 0] / p["d"]) ** (1 / 0.2)) ** (-(p["β"] - p["α"]) * 0.2)
        return p["E"] + p["A"] * sizes[:, 0] ** -p["α"] * bend
    by_axis = [size ** -p[name] for size, name in zip(sizes.T, "αβ", strict=False)]
    terms = {"E + A·D^-α": (0,), "E + A·N^-α·D^-β": (0, 1)}
    if law.formula in terms:
        return p["E"] + p["A"] * np.prod([by_axis[axis] for axis in terms[law.formula]], axis=0)
    together = p["C"] * by_axis[0] * by_axis[1] if "C" in p else 0
    return p["E"] + p["A"] * by_axis[0] + p["B"] * by_axis[1] + together


@EVERY_LAW
def test_parameters_are_those_of_the_formula(law: Law, theta: list[float]) -> None:
    centre = np.array([7.0, 9.0])[: getattr(law, "axes", 1)]
    u, at = sizes_of(law), np.array(theta)
    named = dict(zip(law.parameters, law.natural(at, centre), strict=True))
    np.testing.assert_allclose(np.exp(law.evaluate(at, u)[0]), formula(law, named, np.exp(u + centre)), rtol=1e-9)
