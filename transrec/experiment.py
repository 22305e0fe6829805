"""The configuration of a run as one typed object, and the rules between its sections."""

from typing import Any, Self

from pydantic import Field, model_validator

from transrec.adaptation import AdaptationConfig, FullConfig
from transrec.config import Config, UserPath
from transrec.data.examples import DataConfig
from transrec.data.examples.splits import TemporalConfig
from transrec.data.examples.task import TaskExamplesConfig
from transrec.evaluation.evaluator import EvaluationConfig
from transrec.models import ModelConfig
from transrec.objectives.classification import ClassificationConfig
from transrec.training.engine import ZeroConfig
from transrec.training.optim import OptimizerConfig
from transrec.training.prefix_cache import PrefixCacheConfig
from transrec.training.trainer import TrainConfig


class Experiment(Config):
    """Everything that determines a run. A run folder holds this as `config.yaml`."""

    run_dir: UserPath = Field(description="where the run lives; the same folder again resumes it")
    seed: int = Field(0, ge=0)
    data: DataConfig
    model: ModelConfig
    init_from: UserPath | None = Field(None, description="run folder whose weights to start from (transfer)")
    init_except: list[str] = Field([], description="modules to leave fresh: item ids of another catalogue")
    adaptation: AdaptationConfig = FullConfig()
    prefix_cache: PrefixCacheConfig = PrefixCacheConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    zero: ZeroConfig = ZeroConfig()
    deepspeed: dict[str, Any] = Field({}, description="further DeepSpeed keys, passed through")
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def not_inherited(self) -> list[str]:
        """Modules of the run that it starts from whose weights it does without."""
        replaced = self.model.replaced_by_targets if isinstance(self.data.examples, TaskExamplesConfig) else ()
        return [*self.init_except, *replaced]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train.monitor not in self.evaluation.metrics:
            raise ValueError(f"train.monitor {self.train.monitor!r} is not among evaluation.metrics")
        if (self.data.stride or 0) > self.model.max_length:
            raise ValueError(f"data.stride {self.data.stride} exceeds model.max_length {self.model.max_length}")
        if self.data.windows == "last" and isinstance(self.data.split, TemporalConfig):
            raise ValueError("data.windows=last keeps interactions that data.split.name=temporal may not see")
        if self.init_except and self.init_from is None:
            raise ValueError("init_except names what is not taken from init_from, which is not set")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        a_task = isinstance(self.data.examples, TaskExamplesConfig)
        if a_task != isinstance(self.model.objective, ClassificationConfig):
            raise ValueError(
                "data.examples.name=task and model.objective.name=classification belong together: set both or neither"
            )
        if not a_task:
            return self
        if self.model.output == "untied":
            raise ValueError("a task has a table of targets in place of one of items: set model.output=tied")
        if self.model.max_length < 3:
            raise ValueError("a task's token takes the place of up to two items: model.max_length must be at least 3")
        if isinstance(self.data.split, TemporalConfig):
            raise ValueError("data.split.name=temporal splits histories, but a task splits users: leave data.split out")
        return self
