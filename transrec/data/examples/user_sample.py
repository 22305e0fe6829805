"""A sample of the users to evaluate: the same on any number of ranks, in every run and trial.

Designs considered. Users drawn one by one: nearly every one lies in a different block, which has to be read whole.
The first users of the data: `data.fraction` trains on these. Chosen: whole blocks in a random order, of which the last
one contributes only its first users. Users are stored in the order of a hash, so that each block is a random sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SEED = 2718  # not the run's seed, because trials with different seeds are compared user by user


@dataclass(frozen=True)
class UserSample:
    """A sample of `users` users who have a question, from the `of` users of the data."""

    blocks: Ints  # (blocks,) ascending
    kept: Ints  # (blocks,) number of users of each block in the sample, counted from the block's first user
    users: int
    of: int

    def __str__(self) -> str:
        return f"a sample of {self.users:,} of {self.of:,} users"

    def as_json(self) -> dict[str, int]:
        return {"users": self.users, "of": self.of}


class AskedBlock(NamedTuple):
    """A block whose users are evaluated: all of them, or the first `kept` who have a question."""

    number: int
    kept: int | None

    def of(self, users: NDArray[Any]) -> NDArray[np.bool_]:
        """Which questions are asked, (questions,), given the position in the block of each question's user."""
        return np.isin(users, np.unique(users)[: self.kept])


def draw_users(block_users: Ints, having_questions: Callable[[int], int], most: int) -> UserSample | None:
    """A sample of `most` users; None if at most that many users have a question, so that all are evaluated.

    Args:
        block_users: (blocks,) users of each block.
        having_questions: reads a block; returns the number of its users who have a question.
    """
    blocks: list[int] = []
    kept: list[int] = []
    left = most
    for number in np.random.default_rng(_SEED).permutation(len(block_users)).tolist():
        users = having_questions(number)
        if users > left or (users and not left):
            return _sample(blocks, kept, number, left, most, int(block_users.sum()))
        if users:
            blocks.append(number)
            kept.append(users)
            left -= users
    return None


def _sample(blocks: list[int], kept: list[int], last: int, left: int, users: int, of: int) -> UserSample:
    """The blocks in ascending order, with the first `left` users of the last one."""
    if left:
        blocks, kept = [*blocks, last], [*kept, left]
    order = np.argsort(blocks)
    return UserSample(np.array(blocks)[order], np.array(kept)[order], users, of)


def asked_blocks(blocks: int, sample: UserSample | None) -> list[AskedBlock]:
    """The blocks whose users are evaluated, in the order of the data."""
    if sample is None:
        return [AskedBlock(number, None) for number in range(blocks)]
    return [AskedBlock(*pair) for pair in zip(sample.blocks.tolist(), sample.kept.tolist(), strict=True)]


def turns(blocks: list[AskedBlock], rank: int, world_size: int) -> Iterator[AskedBlock | None]:
    """This rank's blocks; None in a last turn without one, so that all ranks take the same number of turns."""
    for turn in range(-(-len(blocks) // world_size)):
        number = turn * world_size + rank
        yield blocks[number] if number < len(blocks) else None
