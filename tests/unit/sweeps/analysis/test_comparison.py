"""Comparisons of simulated methods, whose true difference is known."""

import numpy as np
import pytest

from transrec.sweeps.analysis.comparison import compare
from transrec.sweeps.analysis.multiplicity import holm
from transrec.sweeps.analysis.resampling import Resampled, mean_draws, resample


def simulated_hits(rng: np.random.Generator, users: int, seeds: int, gap: float, training: float) -> list[np.ndarray]:
    """Hits (users,) of two methods, `seeds` of each: users who are easy for one are easy for the other.

    In expectation over seeds and users the second hits `gap` more often.
    """
    easy = rng.beta(0.6, 1.8, size=users)  # a quarter of the users' targets are hit
    shifts = training * rng.standard_normal((2, seeds)) + np.array([[0.0], [gap]])
    chances = np.clip(0.08 + 0.75 * easy[:, None, None] + shifts, 0, 1)
    hits = (rng.random(chances.shape) < chances).astype(float)
    return [hits[:, method, seed] for method in range(2) for seed in range(seeds)]


def pair(rng: np.random.Generator, users: int, seeds: int, gap: float, training: float, draws: int = 500):
    everything = resample(simulated_hits(rng, users, seeds, gap, training), int(rng.integers(2**31)), draws)
    return everything.of(range(seeds, 2 * seeds)), everything.of(range(seeds))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "training"), [(1, 0.0), (3, 0.01), (5, 0.02)])
def test_intervals_cover_the_true_difference_as_often_as_they_say(seeds: int, training: float) -> None:
    """Two correlated methods a thousand times over: users alone, and users with seeds."""
    covered, rejected = 0, 0
    for trial in range(1000):
        rng = np.random.default_rng((trial, seeds))
        found = compare(*pair(rng, 300, seeds, 0.03, training), higher_is_better=True, seed=trial)
        covered += found.low <= 0.03 <= found.high
        rejected += found.p < 0.05
        # The interval's ends are quantiles of 500 draws, p is an integral: they differ by the noise of the draws.
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or abs(found.p - 0.05) < 0.04
    assert 930 <= covered <= 970, covered


def test_a_clear_difference_is_told_with_its_direction() -> None:
    better, baseline = pair(np.random.default_rng(0), 3000, 3, 0.1, 0.0)
    assert compare(better, baseline, higher_is_better=True).verdict == "better"
    assert compare(better, baseline, higher_is_better=False).verdict == "worse"
    assert compare(baseline, better, higher_is_better=True).verdict == "worse"
    found = compare(better, baseline, higher_is_better=True)
    assert found.difference == pytest.approx(better.values.mean() - baseline.values.mean())
    assert found.low < found.difference < found.high
    assert found.p < 0.02


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_difference_beyond_all_draws_stays_clear_among_many_comparisons(seeds: int) -> None:
    """A p-value that counts draws is never below 2 in 1,000: 0.12 after 60 comparisons."""
    better, baseline = pair(np.random.default_rng(0), 3000, seeds, 0.3, 0.0)
    assert holm([compare(better, baseline, higher_is_better=True).p] * 60)[0] < 0.05


def test_p_is_the_share_of_draws_beyond_zero() -> None:
    """Without seeds the draws themselves are normal; with seeds those of the mean are added to them."""
    for seeds in (1, 3):
        rng = np.random.default_rng(4)
        one, other = pair(rng, 1000, seeds, 0.02, 0.01, draws=4000)
        draws = mean_draws(one.minus(other), rng)
        share = 2 * min((draws <= 0).mean(), (draws >= 0).mean())
        assert compare(one, other, higher_is_better=True).p == pytest.approx(share, abs=0.02)


def test_equivalence_needs_the_interval_within_the_margin() -> None:
    one, other = pair(np.random.default_rng(1), 20_000, 6, 0.0, 0.0, draws=200)
    found = compare(one, other, higher_is_better=True, margin=0.05)
    assert found.verdict == "equivalent"
    assert found.margin == pytest.approx(0.05 * other.values.mean())
    assert compare(one, other, higher_is_better=True, margin=0.001).verdict != "equivalent"


def test_too_few_users_decide_nothing() -> None:
    one, other = pair(np.random.default_rng(2), 40, 3, 0.0, 0.0)
    found = compare(one, other, higher_is_better=True)
    assert found.verdict == "undecided"
    assert found.p > 0.05


def test_what_every_user_agrees_in_has_no_width() -> None:
    same = Resampled(np.array([0.25]), np.full((100, 1), 0.25))
    found = compare(same, same, higher_is_better=True)
    assert (found.low, found.high, found.p, found.verdict) == (0.0, 0.0, 1.0, "equivalent")


def test_seeds_that_disagree_widen_the_interval() -> None:
    calm, wild = (pair(np.random.default_rng(3), 2000, 3, 0.05, training) for training in (0.0, 0.1))
    widths = [c.high - c.low for c in (compare(*p, higher_is_better=True) for p in (calm, wild))]
    assert widths[1] > 2 * widths[0]
