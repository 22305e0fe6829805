"""Crossings of curves that were built to cross where they do."""

import numpy as np
import pytest

from transrec.sweeps.analysis.crossing import crossing
from transrec.sweeps.analysis.resampling import Resampled

SIZES = np.array([100.0, 1_000.0, 10_000.0, 100_000.0])


def differences(*means: float, noise: float = 0.01, seeds: int = 3) -> list[Resampled]:
    rng = np.random.default_rng(0)
    found = []
    for mean in means:
        values = mean + 0.1 * noise * rng.standard_normal(seeds)
        values += mean - values.mean()
        found.append(Resampled(values, values + noise * rng.standard_normal((1000, 1))))
    return found


def test_the_place_is_straight_in_the_logarithm_of_the_size() -> None:
    """From -0.1 at 1,000 to 0.3 at 10,000: zero a quarter of the way."""
    found = crossing(SIZES, differences(-0.2, -0.1, 0.3, 0.4))
    assert found.size == pytest.approx(1000 * 10**0.25)
    assert found.ahead == 1
    assert found.certain
    assert found.low is not None
    assert found.high is not None
    assert 1000 < found.low < found.size < found.high < 10_000


def test_who_is_ahead_depends_on_the_order_of_the_two() -> None:
    one, other = (crossing(SIZES, differences(*(sign * d for d in (-0.2, -0.1, 0.3, 0.4)))) for sign in (1, -1))
    assert (one.ahead, other.ahead) == (1, -1)
    assert one.size == pytest.approx(other.size)


def test_the_interval_is_that_of_the_draws() -> None:
    """Between -0.2 and 0.2, a decade apart, the place moves by half the sum of both ends' noise over 0.4."""
    found = crossing(SIZES, differences(-1.0, -0.2, 0.2, 1.0, noise=0.01, seeds=1))
    assert found.low is not None
    assert found.high is not None
    assert np.log10(found.high / found.low) / 2 == pytest.approx(1.96 * 0.01 * 0.5**0.5 / 0.4, rel=0.15)


def test_curves_that_do_not_cross() -> None:
    found = crossing(SIZES, differences(0.1, 0.2, 0.3, 0.4))
    assert (found.size, found.crossings, found.ahead) == (None, 0, -1)
    assert found.certain


def test_curves_that_cross_twice_have_no_point_to_name() -> None:
    found = crossing(SIZES, differences(-0.2, 0.2, -0.2, -0.3))
    assert (found.size, found.crossings) == (None, 2)


def test_curves_that_are_equal_have_nobody_ahead() -> None:
    same = [Resampled(np.zeros(2), np.zeros((1000, 2))) for _ in SIZES]
    found = crossing(SIZES, same)
    assert (found.ahead, found.crossings, found.size) == (0, 0, None)
    assert found.certain


def test_meeting_is_not_crossing() -> None:
    """Equal at the first size and the third, the second ahead at the others; from 10,000 on the first is."""
    differences = [Resampled(np.full(2, d), np.full((1000, 2), d)) for d in (0.0, 0.2, 0.0, 0.1)]
    found = crossing(SIZES, differences)
    assert (found.ahead, found.crossings) == (-1, 0)
    assert found.certain
    found = crossing(SIZES, [*differences[:3], Resampled(np.full(2, -0.1), np.full((1000, 2), -0.1))])
    assert (found.ahead, found.crossings, found.size) == (-1, 1, pytest.approx(10_000))


def test_a_difference_within_the_noise_is_not_certain() -> None:
    assert not crossing(SIZES, differences(-0.005, -0.004, 0.004, 0.005, noise=0.02)).certain


def test_seeds_that_disagree_make_a_crossing_uncertain() -> None:
    rng = np.random.default_rng(1)
    wild = [Resampled(d + 0.3 * rng.standard_normal(3), np.tile(d, (1000, 3))) for d in (-0.1, -0.05, 0.05, 0.1)]
    assert not crossing(SIZES, wild).certain
