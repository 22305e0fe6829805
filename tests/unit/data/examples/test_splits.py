import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.config import ConfigError, validate
from transrec.data.examples.splits import TemporalConfig, leave_one_out, temporal


def test_leave_one_out_by_hand() -> None:
    split = leave_one_out(np.array([6, 5, 4, 1]), min_interactions=5)
    assert split.train_stop.tolist() == [4, 3, 0, 0]
    assert split.valid.tolist() == [4, 3, -1, -1]
    assert split.test.tolist() == [5, 4, -1, -1]


def test_leave_one_out_needs_an_item_to_train_on_whatever_the_minimum() -> None:
    split = leave_one_out(np.array([1, 2, 3]), min_interactions=1)
    assert split.train_stop.tolist() == [0, 0, 1]
    assert split.test.tolist() == [-1, -1, 2]


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(1, 10))
def test_leave_one_out_parts_are_disjoint_and_cover(lengths: list[int], min_interactions: int) -> None:
    split = leave_one_out(np.array(lengths), min_interactions)
    for length, stop, valid, test in zip(lengths, split.train_stop, split.valid, split.test, strict=True):
        if length < max(3, min_interactions):
            assert (stop, valid, test) == (0, -1, -1)
        else:
            assert [*range(stop), valid, test] == list(range(length))


def test_temporal_by_hand() -> None:
    """Validation from 100 on, test from 200 on; a history of two is the least."""
    histories = [
        [10, 20, 100, 150, 200, 300],  # a bit of everything
        [10, 20, 250],  # nothing in the validation period
        [10, 20, 30],  # all of it before
        [120, 130, 220],  # nothing to train on: what is tested has a history all the same
        [210, 220, 230],  # all of it after
        [10, 110, 120],  # too little before the validation period
        [10, 110, 220],  # too little to train on or validate, enough to test
        [10, 100],  # too short
    ]
    lengths = np.array([len(h) for h in histories])
    split = temporal(lengths, np.concatenate(histories), 3, valid_from=100, test_from=200)
    assert split.train_stop.tolist() == [2, 2, 3, 0, 0, 0, 0, 0]
    assert split.valid.tolist() == [2, -1, -1, -1, -1, -1, -1, -1]
    assert split.test.tolist() == [4, 2, -1, 2, -1, -1, 2, -1]


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=0, max_size=12).map(sorted), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_temporal_targets_are_the_first_of_their_period_and_training_is_before_it(
    histories: list[list[int]], min_interactions: int, one: int, other: int
) -> None:
    valid_from, test_from = sorted((one, other))
    least = max(1, min_interactions - 1)
    lengths = np.array([len(h) for h in histories])
    timestamps = np.array([t for h in histories for t in h], np.int64)
    split = temporal(lengths, timestamps, min_interactions, valid_from, test_from)
    for times, stop, valid, test in zip(histories, split.train_stop, split.valid, split.test, strict=True):
        before = sum(t < valid_from for t in times)
        assert stop == (before if before >= least else 0)
        for found, period in ((valid, range(valid_from, test_from)), (test, range(test_from, 51))):
            first = next((i for i, t in enumerate(times) if t in period), -1)
            assert found == (first if first >= least else -1)


@given(st.lists(st.integers(0, 50), max_size=12).map(sorted), st.integers(1, 5), st.integers(0, 50), st.data())
def test_temporal_training_does_not_know_what_came_later(
    times: list[int], min_interactions: int, valid_from: int, data: st.DataObject
) -> None:
    """Whatever a user does from the validation period on, the training part is the same."""
    later = data.draw(st.lists(st.integers(valid_from, 60), max_size=5).map(sorted))
    past = [t for t in times if t < valid_from]
    one, other = (
        temporal(np.array([len(h)]), np.array(h, np.int64), min_interactions, valid_from, 60)
        for h in (past, past + later)
    )
    assert one.train_stop.tolist() == other.train_stop.tolist()


def test_test_period_before_the_validation_period_is_refused() -> None:
    with pytest.raises(ConfigError, match="valid_from"):
        validate(TemporalConfig, {"valid_from": 0.9, "test_from": 0.8})
