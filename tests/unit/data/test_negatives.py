import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.negatives import sample_negatives


@given(st.sets(st.integers(1, 40), min_size=2), st.data(), st.integers(0, 50), st.integers(0, 2**32))
def test_drawn_from_the_candidates_but_the_users_own(
    candidates: set[int], data: st.DataObject, count: int, seed: int
) -> None:
    others = data.draw(st.sets(st.sampled_from(sorted(candidates)), min_size=1))
    own = np.array([*sorted(candidates - others), 99], np.int64)
    drawn = sample_negatives(np.random.default_rng(seed), np.array(sorted(candidates)), own, count)
    assert drawn.shape == (count,)
    # Who owns nearly all candidates may keep a rejected draw; with half of them that has a chance of 2^-100.
    if len(others) * 2 >= len(candidates):
        assert set(drawn.tolist()) <= others
    assert set(drawn.tolist()) <= candidates


def test_uniform_over_what_the_user_does_not_own() -> None:
    candidates, own = np.arange(1, 11), np.array([2, 5, 7])
    drawn = sample_negatives(np.random.default_rng(0), candidates, own, 70_000)
    counts = np.bincount(drawn, minlength=11)[1:]
    assert counts[own - 1].sum() == 0
    rest = np.delete(counts, own - 1)
    assert np.abs(rest - 10_000).max() < 500, "five standard deviations of a binomial(70000, 1/7)"


def test_owner_of_everything_still_gets_candidates() -> None:
    drawn = sample_negatives(np.random.default_rng(0), np.array([3, 4]), np.array([3, 4]), 5)
    assert set(drawn.tolist()) <= {3, 4}


@pytest.mark.parametrize("own", [np.array([], np.int64), np.array([1])])
def test_equal_generators_draw_equal_items(own: np.ndarray) -> None:
    one, same = (sample_negatives(np.random.default_rng(5), np.arange(1, 50), own, 20) for _ in range(2))
    np.testing.assert_array_equal(one, same)
