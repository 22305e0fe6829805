"""Labels of a task: pairs of a user and a target, split by user into training, validation and test."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.data.examples.splits import TRAIN, UNUSED, by_user
from transrec.data.examples.task_targets import OpenFolder, TargetsConfig
from transrec.data.examples.windows import Windows
from transrec.data.shards.user_shards import UserBlock, UserShards

Ints = NDArray[np.int64]


class Instances(NamedTuple):
    """Instances of a block of users, in the order of the users."""

    user: NDArray[np.int32]  # position in the block
    target: NDArray[np.int32]  # 1..K
    part: NDArray[np.int8]  # TRAIN, VALID, TEST or UNUSED, the same for all instances of a user

    def of(self, part: int) -> "Instances":
        """The instances of one part."""
        return Instances(*(column[self.part == part] for column in self))


@dataclass(frozen=True)
class Labels:
    """The instances of a task in all blocks of users; target t of 1..K has the name `names[t - 1]`."""

    names: list[str]
    blocks: list[Instances]

    @classmethod
    def read(
        cls, source: TargetsConfig, users: UserShards, open_folder: OpenFolder, min_interactions: int, fraction: float
    ) -> "Labels":
        """Read the labels of users with enough interactions; only the first `fraction` of training users is trained on.

        Raises:
            ConfigError: fewer than two targets.
            ShardSetError: shards are unreadable.
        """
        names, pairs = source.read(users, open_folder)
        if len(names) < 2:
            raise ConfigError(
                f"`data.examples.targets`: at least 2 targets are needed, found {len(names)} ({', '.join(names)})"
            )
        blocks = []
        for number, (user, target) in enumerate(pairs):
            block = users.block(number)
            part = by_user(block.user_ids.to_pylist())[user]
            kept = block.lengths[user] >= max(1, min_interactions)
            blocks.append(Instances(user[kept], target[kept], part[kept]))
        return cls(names, _first(blocks, fraction))

    def __len__(self) -> int:
        """Number of targets, K."""
        return len(self.names)

    @cached_property
    def counts(self) -> Ints:
        """(K + 1,): training instances of each target."""
        targets = np.concatenate([block.of(TRAIN).target for block in self.blocks])
        return np.bincount(targets, minlength=len(self) + 1)

    @property
    def digest(self) -> str:
        """Hash of names and instances, which identify the training data of a run."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for block in self.blocks:
            for column in block:
                digest.update(column.tobytes())
        return digest.hexdigest()

    def taking_part(self, number: int, lengths: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """For each user of a block: the length of the history for training, and whether the user has a target."""
        instances = self.blocks[number]
        trains, has = np.zeros(len(lengths), bool), np.zeros(len(lengths), bool)
        trains[instances.of(TRAIN).user] = True
        has[instances.user] = True
        return np.where(trains, lengths, 0), has

    def windows(self, number: int, block: UserBlock, max_length: int, stride: int | None, shortest: int) -> Windows:
        """The newest items of the user and the target, for each training instance.

        Design considered for few labels: hiding items at random, which leaves a history that nobody has. Chosen: with a
        `stride`, earlier states of the user are trained on as well, in windows that end every `stride` items
        before the newest one, as long as at least `shortest` items remain.
        """
        user, target, _ = self.blocks[number].of(TRAIN)
        length = block.lengths[user].astype(np.int64)
        ends = np.ones_like(length) if stride is None else 1 + np.maximum(length - shortest, 0) // stride
        row = np.repeat(np.arange(len(user)), ends)
        back = np.repeat(np.cumsum(ends), ends) - 1 - np.arange(len(row))  # 0: the newest
        stop = length[row] - back * (stride or 0)
        start, scored = np.maximum(stop - max_length, 0), np.ones_like(stop)
        return Windows(user[row].astype(np.int64), start, stop, scored, target[row].astype(np.int64))

    def of_user(self, number: int, user: int) -> NDArray[np.int32]:
        """All targets of one user in block `number`."""
        instances = self.blocks[number]
        first, stop = np.searchsorted(instances.user, [user, user + 1])
        return instances.target[first:stop]


def _first(blocks: list[Instances], fraction: float) -> list[Instances]:
    """Mark as unused the training users beyond the first `fraction`, in the order of the blocks."""
    training = [np.unique(block.of(TRAIN).user) for block in blocks]
    left = ceil(fraction * sum(map(len, training)))
    kept = []
    for block, users in zip(blocks, training, strict=True):
        aside = np.isin(block.user, users[left:])
        kept.append(block._replace(part=np.where(aside, UNUSED, block.part).astype(np.int8)))
        left = max(0, left - len(users))
    return kept
