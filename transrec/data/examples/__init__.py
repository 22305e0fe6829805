"""Kinds of examples that a run learns from and is tested on. Choose one by `data.examples.name:`."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from transrec.data.examples.histories import HistoriesConfig
from transrec.data.examples.next_item import NextItemExamplesConfig
from transrec.data.examples.task import TaskExamplesConfig
from transrec.data.shards.bad_samples import Agree
from transrec.protocols import Examples

ExamplesConfig = Annotated[NextItemExamplesConfig | TaskExamplesConfig, Field(discriminator="name")]


class DataConfig(HistoriesConfig):
    """The shards of a run, and the kind of examples it makes of them."""

    examples: ExamplesConfig = Field(NextItemExamplesConfig(), description="the kind of example: next item, or a task")

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "task" in values:
            raise ValueError("`data.task: TARGETS` is now `data.examples: {name: task, targets: TARGETS}`")
        return values

    def scan(self, max_length: int, agree: Agree = set) -> Examples:
        """The examples in the shards, which takes one pass over the users.

        Args:
            max_length: number of input positions of the user encoder.
            agree: a union of numbers over ranks, so that all leave out the same blocks.

        Raises:
            ShardSetError: unreadable shards, or more of them than may be left out.
            ConfigError: nobody to train on.
        """
        return self.examples.scan(self, max_length, agree)
