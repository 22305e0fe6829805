"""Objectives map user states and item vectors to a loss. `name:` chooses one."""

from typing import Annotated

from pydantic import Field

from transrec.objectives.classification import ClassificationConfig
from transrec.objectives.cloze import ClozeConfig
from transrec.objectives.cpc import CPCConfig
from transrec.objectives.next_item import FullSoftmaxConfig, InBatchSoftmaxConfig, NextItemConfig, SampledSoftmaxConfig

ObjectiveConfig = Annotated[
    NextItemConfig
    | InBatchSoftmaxConfig
    | FullSoftmaxConfig
    | SampledSoftmaxConfig
    | CPCConfig
    | ClozeConfig
    | ClassificationConfig,
    Field(discriminator="name"),
]
