"""Cutting a training history into windows so that every transition is a target exactly once.

A window ends every `stride` items and covers up to `max_length` inputs. With a stride of `max_length`, windows do not
overlap and a target has 1 to `max_length` items before it. With a smaller stride, a target in a long history has at
least `max_length - stride + 1`, as it will when the user's next item is predicted.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """One example: up to L + 1 consecutive items, of which the newest `scored` are targets; for a task, up to L items
    and one target of the task's vocabulary after them."""

    user_id: str
    start: int  # position of the first item in the user's history
    items: NDArray[np.int32]  # oldest first
    scored: int
    own: NDArray[np.int32]  # the user's own targets, never drawn as negatives
    target: int = 0  # 0: the next item is predicted

    @property
    def sequence(self) -> NDArray[np.int32]:
        """Items followed by the task's target, if any; oldest first."""
        return np.append(self.items, np.int32(self.target)) if self.target else self.items

    @property
    def key(self) -> str:
        """A string that is unique to this window."""
        target = f"\0{self.target}" if self.target else ""
        return f"{self.user_id}\0{self.start}{target}"


class Windows(NamedTuple):
    """Windows of a block of users, user by user, oldest first: items `[start, stop)` of the user's history."""

    user: Ints
    start: Ints
    stop: Ints
    scored: Ints  # number of newest items that are targets
    target: Ints  # for a task: the target after the items, scored alone; 0: none


def count_windows(train_stop: Ints, stride: int) -> Ints:
    """Windows per user: a history of n items has n - 1 transitions, and a window predicts up to `stride` of them."""
    return np.where(train_stop >= 2, -(-(train_stop - 1) // stride), 0)


def cut_windows(train_stop: Ints, max_length: int, stride: int) -> Windows:
    """Cut windows so that a user's newest ends with the training history; the oldest may score fewer than `stride`."""
    counts = count_windows(train_stop, stride)
    user = np.repeat(np.arange(len(train_stop)), counts)
    newest_first = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(counts.sum())
    stop = train_stop[user] - newest_first * stride
    scored = np.minimum(stride, stop - 1)
    return Windows(user, np.maximum(stop - max_length - 1, 0), stop, scored, np.zeros_like(user))
