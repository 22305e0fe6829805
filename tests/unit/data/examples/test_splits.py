import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.config import ConfigError, validate
from transrec.data.examples.splits import LastShareConfig, TemporalConfig, last_share, leave_one_out, temporal


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


def test_last_share_by_hand() -> None:
    """Of ten: one and two; of nine: none and one; of five: none and one."""
    users = np.repeat([0, 1, 3], [10, 9, 5])
    alone = np.concatenate([np.arange(10), np.arange(9), np.arange(5)])
    parts = last_share(users, alone, valid=0.1, test=0.2).tolist()
    assert parts == [0] * 7 + [1] + [2] * 2 + [0] * 8 + [2] + [0] * 4 + [2]


def test_last_share_keeps_a_request_in_one_part() -> None:
    """A user's ten requests, of one, two or three impressions each; a request of another user may be cut up by time."""
    sizes = [1, 3, 2, 1, 3, 2, 1, 3, 2, 2]
    requests = np.concatenate([np.repeat(np.arange(10), sizes), [4, 7, 4, 7, 9]])
    users = np.concatenate([np.zeros(20, np.int64), np.ones(5, np.int64)])
    parts = last_share(users, requests, valid=0.2, test=0.34)
    assert parts[:20].tolist() == [0] * 10 + [1] * 3 + [2] * 7
    assert parts[20:].tolist() == [0, 0, 0, 0, 2]
    assert last_share(users[:0], requests[:0], 0.1, 0.1).tolist() == []


@given(st.lists(st.integers(0, 60), max_size=5), st.integers(1, 98), st.data())
def test_last_share_counts_as_one_would_by_hand(counts: list[int], test: int, data: st.DataObject) -> None:
    """Shares are hundredths, which binary numbers only come near to: 29 % of 100 are 29."""
    valid = data.draw(st.integers(1, 99 - test))
    users = np.repeat(np.arange(len(counts)), counts)
    alone = np.concatenate([np.arange(count) for count in counts] or [np.zeros(0, np.int64)])
    parts = last_share(users, alone, valid / 100, test / 100)
    for user, count in enumerate(counts):
        tested, validated = count * test // 100, count * valid // 100
        expected = [0] * (count - tested - validated) + [1] * validated + [2] * tested
        assert parts[users == user].tolist() == expected


def test_a_share_is_not_rounded_away() -> None:
    """0.29 * 100 is a little less than 29."""
    parts = last_share(np.zeros(100, np.int64), np.arange(100), valid=0.57, test=0.29)
    assert np.bincount(parts).tolist() == [14, 57, 29]


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="valid and test must add up to less than 1"):
        validate(LastShareConfig, {"valid": 0.5, "test": 0.5})
