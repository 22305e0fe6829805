"""Questions that evaluation asks a model: held-out targets, each with the history before it.

Shape letters: B questions of a block of users, L input positions, H longest history, X targets left out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.data.shards.user_shards import UserBlock


class Asked(NamedTuple):
    """Questions about users of a block, one per row."""

    users: NDArray[Any]  # positions in the block
    histories: list[NDArray[np.int32]]  # everything before the target, oldest first
    targets: NDArray[Any]
    left_out: list[NDArray[np.int32]]  # targets excluded from the ranking: the history, or the user's other targets

    def only(self, which: NDArray[np.bool_]) -> "Asked":
        """The questions for which the mask `which` (questions,) is true."""
        rows = np.flatnonzero(which).tolist()
        histories = [self.histories[row] for row in rows]
        left_out = histories if self.left_out is self.histories else [self.left_out[row] for row in rows]
        return Asked(self.users[which], histories, self.targets[which], left_out)


@dataclass(frozen=True)
class Question:
    """B held-out targets and the users' earlier items, as indices of items or of a task's targets (0: padding).

    A user has one question for the next item, and any number for a task.
    """

    user_ids: list[str]
    users: Tensor  # (B,) a number for each user
    inputs: Tensor  # (B, L) the newest items before the target, left-padded
    history: Tensor  # (B, H) everything before the target, left-padded
    targets: Tensor  # (B,)
    left_out: Tensor  # (B, X) targets excluded from the ranking
    evidence: tuple[SparseScores, ...] = ()  # (B, N + 1) for each kind that the model looks up


@dataclass(frozen=True)
class Histories:
    """The newest items (B, L), left-padded, of users without a target."""

    inputs: Tensor
    evidence: tuple[SparseScores, ...] = ()  # (B, N + 1) for each kind that the model looks up


def question(
    asked: Asked, block: UserBlock, number: int, max_length: int, evidence: tuple[SparseScores, ...] = ()
) -> Question:
    """Tensors for the questions `asked` about users of `block`, whose number is `number`."""
    history = left_padded(asked.histories)
    return Question(
        user_ids=ids_of(block, asked.users),
        users=torch.from_numpy((np.int64(number) << 32) + asked.users.astype(np.int64)),
        inputs=newest(history, max_length),
        history=history,
        targets=torch.from_numpy(asked.targets.astype(np.int64)),
        left_out=history if asked.left_out is asked.histories else left_padded(asked.left_out),
        evidence=evidence,
    )


def about_nobody(max_length: int, evidence: tuple[SparseScores, ...] = ()) -> Question:
    """A dummy question whose answer is discarded."""
    inputs = torch.zeros((1, max_length), dtype=torch.int64)
    inputs[:, -1] = 1
    one = torch.ones(1, dtype=torch.int64)
    return Question([], one, inputs, inputs, one, inputs, evidence)


def ids_of(block: UserBlock, users: NDArray[Any]) -> list[str]:
    """The ids of the users at the positions `users` of `block`."""
    return [block.user_ids[int(u)].as_py() for u in users]


def left_padded(histories: list[NDArray[np.int32]]) -> Tensor:
    """Histories as one int64 tensor (B, H), where H is the longest history."""
    padded = torch.zeros((len(histories), max(map(len, histories))), dtype=torch.int64)
    for row, history in zip(padded, histories, strict=True):
        row[len(row) - len(history) :] = torch.from_numpy(history.astype(np.int64))
    return padded


def newest(history: Tensor, max_length: int) -> Tensor:
    """The last columns of a left-padded history, (B, max_length), with more padding if it is shorter."""
    return torch.nn.functional.pad(history, (max(0, max_length - history.shape[1]), 0))[:, -max_length:]
