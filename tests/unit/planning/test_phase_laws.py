"""Constants of the laws, from amounts and seconds that are known."""

import pytest

from transrec.planning.laws import Estimate, estimate


def test_one_rehearsal_gives_all_its_time_to_what_grows_most() -> None:
    found = estimate({"fixed": 1, "items": 1000}, [({"fixed": 1, "items": 10}, 2.0)])
    assert found == Estimate(pytest.approx(200), pytest.approx(200))


def test_two_rehearsals_tell_a_fixed_cost_from_one_that_grows() -> None:
    known = [({"fixed": 1, "items": size}, 5 + 0.01 * size) for size in (10, 100)]
    found = estimate({"fixed": 1, "items": 1e6}, known)
    assert found.seconds == pytest.approx(5 + 0.01 * 1e6)
    assert found.at_most == pytest.approx(6 * 1e4), "the larger one's, in proportion"


def test_two_costs_that_grow_are_told_apart() -> None:
    known = [({"questions": q, "scores": q * n}, 0.1 * q + 0.001 * q * n) for q, n in ((10, 10), (10, 1000))]
    assert estimate({"questions": 50, "scores": 5e7}, known).seconds == pytest.approx(5 + 5e4)


def test_amounts_that_grow_together_are_not_told_apart() -> None:
    known = [({"fixed": 1, "parameters": 100}, 3.0), ({"fixed": 1, "parameters": 100}, 3.2)]
    found = estimate({"fixed": 1, "parameters": 1000}, known)
    assert 30 <= found.seconds <= 32, "all to the parameters, which grow"


def test_a_fixed_cost_comes_before_amounts_that_grow_like_another() -> None:
    sizes = [{"fixed": 1, "items": n, "parameters": 1000 + 8 * n} for n in (100, 300, 1000, 1e6)]
    *known, wanted = [(size, 3 + 1e-5 * size["parameters"]) for size in sizes]
    assert estimate(wanted[0], known).seconds == pytest.approx(wanted[1], rel=0.01)


def test_no_constant_is_negative() -> None:
    known = [({"fixed": 1, "items": 10}, 2.0), ({"fixed": 1, "items": 100}, 1.9)]
    found = estimate({"fixed": 1, "items": 1e4}, known)
    assert found.seconds == pytest.approx(1.95, abs=0.1)
    assert found.at_most == pytest.approx(190), "no growth was seen, so it may hide in the noise"


def test_a_smaller_size_takes_no_more_than_was_measured() -> None:
    found = estimate({"fixed": 1, "items": 1}, [({"fixed": 1, "items": 10}, 2.0)])
    assert found == Estimate(pytest.approx(2), pytest.approx(2)), "all of it may be fixed"


def test_a_square_is_not_hidden_by_the_fit() -> None:
    *known, (largest, seconds) = [({"fixed": 1, "items": size}, 1e-4 * size**2) for size in (10, 100, 1000)]
    assert estimate(largest, known).seconds < seconds / 1.5
