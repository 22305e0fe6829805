"""Kinds of examples for training and evaluation. Choose one by `data.examples.name:`."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from transrec.data.examples.histories import HistoriesConfig
from transrec.data.examples.impressions import ImpressionsConfig
from transrec.data.examples.next_item import NextItemExamplesConfig
from transrec.data.examples.task import TaskExamplesConfig
from transrec.data.peers import Alone, Peers
from transrec.protocols import Examples

ExamplesConfig = Annotated[NextItemExamplesConfig | TaskExamplesConfig | ImpressionsConfig, Field(discriminator="name")]
_ALONE = Alone()


class DataConfig(HistoriesConfig):
    """The shards of a run and the kind of examples built from them."""

    examples: ExamplesConfig = Field(
        NextItemExamplesConfig(), description="the kind of example: next item, a task, or impressions"
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "task" in values:
            raise ValueError("`data.task: TARGETS` is now `data.examples: {name: task, targets: TARGETS}`")
        return values

    def scan(self, max_length: int, peers: Peers = _ALONE) -> Examples:
        """Build the examples in the shards, in one pass over the users.

        Args:
            max_length: number of input positions of the user encoder.
            peers: the ranks that share the pass and leave out the same blocks; all of them must call.

        Raises:
            ShardSetError: shards are unreadable, or more samples than may be left out.
            ConfigError: a task has no targets.
        """
        return self.examples.scan(self, max_length, peers)
