"""Draws over users against their theory; the seeds' variance against the one that was put in."""

import numpy as np
import pytest

from transrec.sweeps.analysis import resampling
from transrec.sweeps.analysis.resampling import Resampled, interval, mean_draws, mean_interval, resample, shared_draws


def test_draws_have_the_mean_and_the_spread_of_a_mean() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=400)
    found = resample([values], seed=1, draws=4000)
    assert found.values[0] == pytest.approx(values.mean())
    assert found.draws.mean() == pytest.approx(values.mean(), abs=4 * values.std() / 20 / 4000**0.5)
    assert found.draws.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_trials_share_the_draw_of_users() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    found = resample([values, values + 1.5], seed=0)
    np.testing.assert_allclose(found.draws[:, 1] - found.draws[:, 0], 1.5)


def test_users_are_drawn_with_all_their_targets() -> None:
    """Forty users with a value each, which one to three targets repeat: their mean varies as that of forty."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(40), rng.integers(1, 4, size=40))
    tastes = rng.standard_normal(40)
    found = resample([tastes[owners]], seed=0, draws=4000, users=owners)
    sizes = np.bincount(owners)
    expected = [(tastes[d] * sizes[d]).sum() / sizes[d].sum() for d in rng.integers(40, size=(4000, 40))]
    assert found.values[0] == pytest.approx(tastes[owners].mean())
    assert found.draws.std() == pytest.approx(np.std(expected), rel=0.05)


def test_drawing_in_pieces_takes_the_same_users(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.arange(20.0)]
    whole = resample(values, seed=3, draws=50)
    monkeypatch.setattr(resampling, "_CELLS", 100)
    np.testing.assert_array_equal(resample(values, seed=3, draws=50).draws, whole.draws)


def seeds_of(rng: np.random.Generator, training: float, users: int = 200, seeds: int = 4) -> Resampled:
    shared = rng.standard_normal(users)
    runs = [shared + training * rng.standard_normal() + rng.standard_normal(users) for _ in range(seeds)]
    return resample(runs, int(rng.integers(2**31)), draws=200)


def test_users_are_counted_once() -> None:
    """What four runs of 200 users share has a variance of 1 / 200; what each has for itself is left to the seeds."""
    shared = [shared_draws(seeds_of(np.random.default_rng(i), 0.2)).var() for i in range(100)]
    assert np.mean(shared) == pytest.approx(1 / 200, rel=0.05)


def test_the_mean_of_seeds_varies_as_it_does_when_everything_is_done_again() -> None:
    worlds = [seeds_of(np.random.default_rng(i), 0.2, seeds=6) for i in range(300)]
    again = np.var([world.values.mean() for world in worlds])
    drawn = [mean_draws(world, np.random.default_rng(0)).var() for world in worlds]
    student = 5 / 3  # variance of its distribution with 5 degrees of freedom; of users' part it is 1
    assert 0.85 * again < np.mean(drawn) < student * 1.1 * again


def test_one_run_tells_nothing_of_seeds() -> None:
    one = seeds_of(np.random.default_rng(0), 0.2, seeds=1)
    np.testing.assert_array_equal(mean_draws(one, np.random.default_rng(0)), one.draws[:, 0])


def test_runs_without_users_who_matter_keep_the_seeds_spread() -> None:
    runs = Resampled(np.array([1.0, 2.0, 3.0]), np.tile([1.0, 2.0, 3.0], (4000, 1)))
    low, high = interval(mean_draws(runs, np.random.default_rng(0)), 0.8)
    assert (low, high) == pytest.approx((2 - 1.886 / 3**0.5, 2 + 1.886 / 3**0.5), abs=0.08)  # Student's table


def test_an_interval_has_the_share_asked_for() -> None:
    assert interval(np.arange(1001.0), 0.9) == pytest.approx((50, 950))


def test_the_interval_of_a_mean_has_nothing_below_zero() -> None:
    runs = Resampled(np.array([0.01, 0.09]), np.full((1000, 2), [0.01, 0.09]))
    assert interval(mean_draws(runs, np.random.default_rng(0)))[0] < 0
    low, high = mean_interval(runs)
    assert low == 0
    assert high > 0.09
