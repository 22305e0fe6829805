"""Trackers: programs for watching and comparing the curves of runs, each chosen by `name:`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from transrec.training.trackers.csv_table import CsvConfig
from transrec.training.trackers.mlflow_run import MlflowConfig
from transrec.training.trackers.tensorboard_log import TensorBoardConfig
from transrec.training.trackers.wandb_run import WandbConfig


def _named(tracker: Any) -> Any:
    """A name stands for the tracker of that name with its default settings."""
    return {"name": tracker} if isinstance(tracker, str) else tracker


TrackerConfig = Annotated[
    TensorBoardConfig | CsvConfig | WandbConfig | MlflowConfig, Field(discriminator="name"), BeforeValidator(_named)
]
