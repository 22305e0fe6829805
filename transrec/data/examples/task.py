"""Task: a target of another vocabulary is predicted from a user's history.

Designs considered. A loader, a loss and an evaluation for each task, as in the released scripts of PeterRec: a second
path from shards to metrics soon differs from the first. A column of labels beside the batch: all code between shard and
metric has to pass it on. Chosen: the target takes the place of the next item after the history, and is a number of
another vocabulary. Windows, order, batches, objectives and ranking are the same as for the next item. Only the source
of targets (`task_targets.py`), the split of users (`labels.py`) and the target vectors (`models/task_head.py`) are
new.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config, ConfigError
from transrec.data.batch import Targets
from transrec.data.examples.histories import HistoriesConfig, HistoryExamples, Ints, open_folder, open_users
from transrec.data.examples.labels import Instances, Labels
from transrec.data.examples.questions import Asked
from transrec.data.examples.splits import TEST, TRAIN, VALID
from transrec.data.examples.task_targets import TargetsConfig
from transrec.data.examples.windows import Windows
from transrec.data.peers import Peers
from transrec.data.shards.user_shards import UserBlock, UserShards
from transrec.protocols import Part


class TaskExamplesConfig(Config):
    """Predict a target of another vocabulary: a profile, the items of another catalogue, or the labels of a file."""

    name: Literal["task"] = Field("task", description="the kind of example")
    targets: TargetsConfig = Field(description="where the users' targets come from")

    def scan(self, config: HistoriesConfig, max_length: int, peers: Peers) -> "TaskExamples":
        """Build the examples in the shards, with the other ranks."""
        shards = open_users(config, peers)
        labels = Labels.read(
            self.targets, shards, partial(open_folder, config), config.min_interactions, config.fraction
        )
        return TaskExamples(labels, shards, config, max_length, peers)


class TaskExamples(HistoryExamples):
    """Each user is in training, validation or test as a whole, with the full history and a target after it."""

    name = "task"
    shortest_history = 1

    def __init__(
        self, labels: Labels, shards: UserShards, config: HistoriesConfig, max_length: int, peers: Peers
    ) -> None:
        self.labels = labels
        super().__init__(shards, config, max_length, peers)
        self.targets = Targets(len(labels), of_items=False)

    def check_training(self) -> None:
        if not any((block.part == TRAIN).any() for block in self.labels.blocks):
            raise ConfigError(
                f"no training user of {self.folder} has a target: check data.examples and data.min_interactions"
            )

    def remarks(self, part: Part) -> list[str]:
        """No remarks: a target has no position in the history."""
        return []

    def taking_part(self, number: int, block: UserBlock) -> tuple[Ints, NDArray[np.bool_]]:
        return self.labels.taking_part(number, block.lengths)

    def windows(self, number: int) -> Windows:
        shortest = max(1, self.config.min_interactions)
        return self.labels.windows(number, self.block(number), self.max_length, self.config.stride, shortest)

    def own(self, number: int, block: UserBlock, user: int) -> NDArray[np.int32]:
        return self.labels.of_user(number, user)

    def asked(self, number: int, part: Part) -> Asked:
        users, targets, _ = self._instances(number, part)
        block = self.block(number)
        own = [self.labels.of_user(number, int(u)) for u in users]
        others = [all_of[all_of != target] for all_of, target in zip(own, targets, strict=True)]
        return Asked(users, [block.history(int(u)) for u in users], targets, others)

    def asked_users(self, number: int, part: Part) -> NDArray[Any]:
        return self._instances(number, part).user

    def _instances(self, number: int, part: Part) -> Instances:
        return self.labels.blocks[number].of(VALID if part == "valid" else TEST)

    def target_names(self) -> pa.StringArray:
        return pa.array(self.labels.names, pa.string())

    @property
    def ranked(self) -> Ints:
        return np.arange(1, self.targets.size + 1)

    @property
    def negatives(self) -> Ints:
        return self.ranked

    @property
    def identity(self) -> Mapping[str, str]:
        return {"targets": self.labels.digest}

    def training_size(self) -> dict[str, int]:
        """Numbers of training users, their interactions, windows per epoch, and training labels."""
        return super().training_size() | {"labels": int(self.labels.counts.sum())}

    def training_histories(self) -> Iterator[tuple[list[NDArray[np.int32]], NDArray[np.int32]]]:
        """(whole histories, targets) of the training instances of each block."""
        for number in range(len(self.shards)):
            users, targets, _ = self.labels.blocks[number].of(TRAIN)
            block = self.block(number)
            yield [block.history(int(u)) for u in users], targets
