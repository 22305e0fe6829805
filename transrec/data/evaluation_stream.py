"""Users to evaluate, a block at a time, dealt to ranks by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.examples.interactions import Interactions
from transrec.data.examples.labels import Instances, Labels
from transrec.data.examples.splits import TEST, TRAIN, VALID, Ints, Split
from transrec.data.shards.user_shards import UserBlock

Part = Literal["valid", "test"]


@dataclass(frozen=True)
class EvaluationBatch:
    """B held-out targets and what their users did before, all indices catalogue indices (0: padding, left).

    Of the next item every user has one; of a task any number, and they are of another vocabulary.
    """

    user_ids: list[str]
    users: Tensor  # (B,) a number for each user
    inputs: Tensor  # (B, L) the newest items before the target
    history: Tensor  # (B, H) everything before the target
    targets: Tensor  # (B,)
    left_out: Tensor  # (B, X) what is not ranked: the history, or the other targets of the user


def evaluation_batches(
    interactions: Interactions, part: Part, rank: int = 0, world_size: int = 1
) -> Iterator[EvaluationBatch | None]:
    """This rank's batches; None for a block with nobody to evaluate, so that every rank gets equally many."""
    blocks = len(interactions.shards)
    for turn in range(-(-blocks // world_size)):
        number = turn * world_size + rank
        yield _batch(interactions, part, number) if number < blocks else None


def evaluated_users(interactions: Interactions, part: Part) -> list[str]:
    """Ids of all users with a target, in the order of the data; of a task, one for each target."""
    ids: list[str] = []
    for number in range(len(interactions.shards)):
        block = interactions.block(number)
        if interactions.labels is not None:
            ids += _ids(block, _asked(interactions.labels, part, number).user)
        else:
            ids += _ids(block, _evaluated(interactions.split(block), part))
    return ids


def training_sequences(interactions: Interactions) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(items end to end, length of each user's training history), block by block: what baselines count."""
    for number, stops in enumerate(interactions.train_stops):
        block = interactions.block(number)
        position = np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths)
        yield block.items[position < np.repeat(stops, block.lengths)].astype(np.int64), stops.astype(np.int64)


def training_histories(
    interactions: Interactions, labels: Labels
) -> Iterator[tuple[list[NDArray[np.int32]], NDArray[np.int32]]]:
    """(whole history, target) of each training instance of a task, block by block."""
    for number in range(len(interactions.shards)):
        users, targets, _ = labels.blocks[number].of(TRAIN)
        block = interactions.block(number)
        yield [block.history(int(u)) for u in users], targets


def _batch(interactions: Interactions, part: Part, number: int) -> EvaluationBatch | None:
    block, labels = interactions.block(number), interactions.labels
    users: NDArray[Any]
    if labels is None:
        split = interactions.split(block)
        users, positions = _evaluated(split, part), _positions(split, part)
        histories = [block.history(int(u))[: positions[u]] for u in users]
        targets = block.items[block.offsets[users] + positions[users]]
        left_out = histories
    else:
        users, targets, _ = _asked(labels, part, number)
        histories = [block.history(int(u)) for u in users]
        own = [labels.of_user(number, int(u)) for u in users]
        left_out = [all_of[all_of != target] for all_of, target in zip(own, targets, strict=True)]
    if not len(users):
        return None
    history = left_padded(histories)
    return EvaluationBatch(
        user_ids=_ids(block, users),
        users=torch.from_numpy((np.int64(number) << 32) + users.astype(np.int64)),
        inputs=newest(history, interactions.max_length),
        history=history,
        targets=torch.from_numpy(targets.astype(np.int64)),
        left_out=history if left_out is histories else left_padded(left_out),
    )


def _asked(labels: Labels, part: Part, number: int) -> Instances:
    return labels.blocks[number].of(VALID if part == "valid" else TEST)


def _positions(split: Split, part: Part) -> Ints:
    return split.valid if part == "valid" else split.test


def _evaluated(split: Split, part: Part) -> NDArray[np.int64]:
    return np.flatnonzero(_positions(split, part) >= 0)


def _ids(block: UserBlock, users: NDArray[Any]) -> list[str]:
    return [block.user_ids[int(u)].as_py() for u in users]


def left_padded(histories: list[NDArray[np.int32]]) -> Tensor:
    """(B, H) int64, H the longest history."""
    padded = torch.zeros((len(histories), max(map(len, histories))), dtype=torch.int64)
    for row, history in zip(padded, histories, strict=True):
        row[len(row) - len(history) :] = torch.from_numpy(history.astype(np.int64))
    return padded


def newest(history: Tensor, max_length: int) -> Tensor:
    """(B, max_length): the last columns of a left-padded history, padded further where it is shorter."""
    return torch.nn.functional.pad(history, (max(0, max_length - history.shape[1]), 0))[:, -max_length:]
