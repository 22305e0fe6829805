import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.config import ConfigError, validate
from transrec.data.splits import TemporalConfig, leave_one_out, temporal


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
    """Validation from 100 on, test from 200 on."""
    histories = [
        [10, 20, 100, 150, 200, 300],  # a bit of everything
        [10, 20, 250],  # nothing in the validation period
        [10, 20, 30],  # all of it before
        [120, 130, 220],  # nothing to train on: what is tested has a history all the same
        [210, 220, 230],  # all of it after
        [10, 100],  # too short
    ]
    lengths = np.array([len(h) for h in histories])
    split = temporal(lengths, np.concatenate(histories), 3, valid_from=100, test_from=200)
    assert split.train_stop.tolist() == [2, 2, 3, 0, 0, 0]
    assert split.valid.tolist() == [2, -1, -1, -1, -1, -1]
    assert split.test.tolist() == [4, 2, -1, 2, -1, -1]


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
    lengths = np.array([len(h) for h in histories])
    timestamps = np.array([t for h in histories for t in h], np.int64)
    split = temporal(lengths, timestamps, min_interactions, valid_from, test_from)
    for times, stop, valid, test in zip(histories, split.train_stop, split.valid, split.test, strict=True):
        kept = len(times) >= min_interactions
        assert stop == (sum(t < valid_from for t in times) if kept else 0)
        in_validation = [i for i, t in enumerate(times) if valid_from <= t < test_from]
        in_test = [i for i, t in enumerate(times) if t >= test_from]
        assert valid == (in_validation[0] if kept and in_validation and in_validation[0] > 0 else -1)
        assert test == (in_test[0] if kept and in_test and in_test[0] > 0 else -1)


@pytest.mark.xfail(strict=True, reason="a test period before the validation period is taken: test items train")
def test_test_period_before_the_validation_period_is_refused() -> None:
    with pytest.raises(ConfigError, match="valid_from"):
        validate(TemporalConfig, {"valid_from": 0.9, "test_from": 0.8})
