import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.examples.negatives import NegativeSampler


@given(st.sets(st.integers(1, 40), min_size=2), st.data(), st.integers(0, 50), st.integers(0, 2**32))
def test_drawn_from_the_candidates_but_the_users_own(
    candidates: set[int], data: st.DataObject, count: int, seed: int
) -> None:
    others = data.draw(st.sets(st.sampled_from(sorted(candidates)), min_size=1))
    own = np.array([*sorted(candidates - others), 99], np.int64)
    drawn = NegativeSampler(np.array(sorted(candidates)), 99)(np.random.default_rng(seed), own, count)
    assert drawn.shape == (count,)
    # Who owns nearly all candidates may keep a rejected draw; with half of them that has a chance of 2^-100.
    if len(others) * 2 >= len(candidates):
        assert set(drawn.tolist()) <= others
    assert set(drawn.tolist()) <= candidates


def test_uniform_over_what_the_user_does_not_own() -> None:
    candidates, own = np.arange(1, 11), np.array([2, 5, 7])
    drawn = NegativeSampler(candidates, 10)(np.random.default_rng(0), own, 70_000)
    counts = np.bincount(drawn, minlength=11)[1:]
    assert counts[own - 1].sum() == 0
    rest = np.delete(counts, own - 1)
    assert np.abs(rest - 10_000).max() < 500, "five standard deviations of a binomial(70000, 1/7)"


def test_owner_of_everything_still_gets_candidates() -> None:
    drawn = NegativeSampler(np.array([3, 4]), 4)(np.random.default_rng(0), np.array([3, 4]), 5)
    assert set(drawn.tolist()) <= {3, 4}


@pytest.mark.parametrize("own", [np.array([], np.int64), np.array([1])])
def test_equal_generators_draw_equal_items(own: np.ndarray) -> None:
    one, same = (NegativeSampler(np.arange(1, 50), 49)(np.random.default_rng(5), own, 20) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_a_user_does_not_mark_the_items_of_the_next() -> None:
    sample = NegativeSampler(np.arange(1, 11), 10)
    sample(np.random.default_rng(0), np.arange(1, 6), 20)
    assert set(sample(np.random.default_rng(0), np.array([10]), 500).tolist()) == set(range(1, 10))
