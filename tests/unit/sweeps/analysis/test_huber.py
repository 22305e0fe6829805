"""Fits side by side against scipy's, one at a time."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from transrec.sweeps.analysis.huber import minimise
from transrec.sweeps.analysis.laws import Law, PowerLaw

U = np.repeat(np.linspace(-2, 2, 6), 3)[:, None]


def noisy(seed: int) -> np.ndarray:
    noise = 0.02 * np.random.default_rng(seed).standard_normal(len(U))
    return np.log(0.5 + 0.3 * np.exp(-0.6 * U[:, 0])) + noise


def by_scipy(law: Law, log_errors: np.ndarray, delta: float) -> float:
    """The least objective that scipy finds from any start."""
    robust = {"loss": "huber", "f_scale": delta} if np.isfinite(delta) else {}
    low, high = law.bounds(U, log_errors)
    return min(
        least_squares(
            lambda theta: law.evaluate(theta, U)[0] - log_errors,
            np.clip(start, low + 1e-9, high - 1e-9),
            bounds=(low, high),
            max_nfev=2000,
            **robust,
        ).cost
        for start in law.starts(U, log_errors)[::3]
    )


@pytest.mark.parametrize("delta", [1e-3, 0.05, np.inf])
def test_no_start_of_scipy_finds_less(delta: float) -> None:
    law, log_errors = PowerLaw(), noisy(0)
    _, costs = minimise(law, U, log_errors, law.starts(U, log_errors), delta)
    assert costs.min() == pytest.approx(by_scipy(law, log_errors, delta), rel=1e-5)


def test_fits_do_not_see_each_other() -> None:
    law, rows = PowerLaw(), np.stack([noisy(seed) for seed in range(5)])
    starts = np.tile(law.starts(U, rows[0])[5], (5, 1))
    together, costs = minimise(law, U, rows, starts, 0.05)
    for i, row in enumerate(rows):
        alone, cost = minimise(law, U, np.stack([row, rows.max(0), rows.min(0)]), np.tile(starts[0], (3, 1)), 0.05)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-5)
        assert costs[i] == pytest.approx(cost[0], rel=1e-8)


def test_an_outlier_does_not_pull_a_robust_fit() -> None:
    law, clean = PowerLaw(), np.log(0.5 + 0.3 * np.exp(-0.6 * U[:, 0]))
    spoilt = clean.copy()
    spoilt[4] += 1.0
    robust, squares = (
        np.abs(law.evaluate(thetas[costs.argmin()], U)[0] - clean).max()
        for thetas, costs in (minimise(law, U, spoilt, law.starts(U, spoilt), delta) for delta in (1e-3, np.inf))
    )
    assert robust < 2e-3
    assert squares > 0.05
