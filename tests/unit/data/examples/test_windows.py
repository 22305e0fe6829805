from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.examples.windows import count_windows, cut_windows


@st.composite
def cuts(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """(training length of each user, L, stride ≤ L)."""
    max_length = draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    return np.array(lengths), max_length, draw(st.integers(1, max_length))


@given(cuts())
def test_every_transition_is_scored_exactly_once(cut: tuple[np.ndarray, int, int]) -> None:
    windows = cut_windows(*cut)
    scored = Counter(
        (int(user), target)
        for user, stop, count in zip(windows.user, windows.stop, windows.scored, strict=True)
        for target in range(stop - count, stop)
    )
    assert scored == Counter((user, target) for user, n in enumerate(cut[0]) for target in range(1, n))


@given(cuts())
def test_a_window_holds_at_most_one_item_more_than_the_encoder_reads(cut: tuple[np.ndarray, int, int]) -> None:
    windows = cut_windows(*cut)
    lengths = windows.stop - windows.start
    assert np.all(lengths <= cut[1] + 1)
    assert np.all(lengths > windows.scored), "the oldest target has an item before it"
    assert np.all(windows.start >= 0)


@given(cuts())
def test_a_context_is_cut_only_by_the_length_or_the_beginning(cut: tuple[np.ndarray, int, int]) -> None:
    windows = cut_windows(*cut)
    short = windows.stop - windows.start < cut[1] + 1
    assert np.all(windows.start[short] == 0)


@given(cuts())
def test_the_newest_window_ends_with_the_training_history(cut: tuple[np.ndarray, int, int]) -> None:
    windows = cut_windows(*cut)
    for user, n in enumerate(cut[0]):
        if n >= 2:
            assert windows.stop[windows.user == user][-1] == n


@given(cuts())
def test_windows_lie_user_by_user_oldest_first(cut: tuple[np.ndarray, int, int]) -> None:
    windows = cut_windows(*cut)
    pairs = list(zip(windows.user, windows.stop, strict=True))
    assert pairs == sorted(pairs)


@given(cuts())
def test_counting_agrees_with_cutting(cut: tuple[np.ndarray, int, int]) -> None:
    lengths, max_length, stride = cut
    users = cut_windows(lengths, max_length, stride).user
    np.testing.assert_array_equal(count_windows(lengths, stride), np.bincount(users, minlength=len(lengths)))


def test_stride_of_the_full_length_by_hand() -> None:
    """Eight items, three inputs: targets 5..7, 2..4 and what is left, 1."""
    windows = cut_windows(np.array([8]), max_length=3, stride=3)
    assert list(zip(windows.start, windows.stop, windows.scored, strict=True)) == [(0, 2, 1), (1, 5, 3), (4, 8, 3)]


def test_smaller_stride_by_hand() -> None:
    """Every target but the oldest sees L − stride + 1 = 2 items or more."""
    windows = cut_windows(np.array([8]), max_length=3, stride=2)
    assert list(zip(windows.start, windows.stop, windows.scored, strict=True)) == [
        (0, 2, 1),
        (0, 4, 2),
        (2, 6, 2),
        (4, 8, 2),
    ]


@given(cuts())
def test_targets_of_a_long_history_see_enough(cut: tuple[np.ndarray, int, int]) -> None:
    _, max_length, stride = cut
    windows = cut_windows(*cut)
    seen_by_oldest_target = windows.stop - windows.scored - windows.start
    whole = windows.start > 0
    assert np.all(seen_by_oldest_target[whole] == max_length - stride + 1)


def test_histories_without_a_transition_give_no_window() -> None:
    assert len(cut_windows(np.array([0, 1]), 5, 5).user) == 0
