"""Cutting a training history into windows so that every transition is a target exactly once."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def count_windows(train_stop: Ints, max_length: int) -> Ints:
    """Windows of each user: a history of n items has n - 1 transitions, a window predicts up to `max_length` of them."""
    return np.where(train_stop >= 2, -(-(train_stop - 1) // max_length), 0)


def window_bounds(train_stop: Ints, max_length: int) -> tuple[Ints, Ints, Ints]:
    """(user, start, stop) of every window of a block, user by user, oldest first.

    A window holds up to `max_length + 1` items; the newest one always ends with the history and the oldest may be short.
    """
    counts = count_windows(train_stop, max_length)
    user = np.repeat(np.arange(len(train_stop)), counts)
    newest_first = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(counts.sum())
    stop = train_stop[user] - newest_first * max_length
    return user, np.maximum(stop - max_length - 1, 0), stop
