"""The configuration of a run as one typed object, with consistency checks between its sections."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from transrec.adaptation import AdaptationConfig
from transrec.adaptation.selective import FullConfig
from transrec.config import Config, MayDiffer, UserPath
from transrec.data.examples import DataConfig
from transrec.data.examples.impressions import ImpressionsConfig
from transrec.data.examples.splits import TemporalConfig
from transrec.data.examples.task import TaskExamplesConfig
from transrec.evaluation.evaluator import EvaluationConfig
from transrec.evaluation.metrics import metric
from transrec.models import ModelConfig
from transrec.models.ranking_model import RankingModelConfig
from transrec.training.engine import ZeroConfig
from transrec.training.optim import OptimizerConfig
from transrec.training.prefix_cache import PrefixCacheConfig
from transrec.training.trainer import TrainConfig


class Experiment(Config):
    """Everything that determines a run. A run folder holds this as `config.yaml`."""

    run_dir: UserPath = Field(description="run folder; an existing run in it is resumed")
    seed: int = Field(0, ge=0, description="random seed for weights, data order, negatives and dropout")
    data: DataConfig = Field(description="the shards, and how examples are made from them")
    model: ModelConfig = Field(description="the model to train")
    init_from: UserPath | None = Field(None, description="run folder whose weights to start from (transfer)")
    init_except: list[str] = Field([], description="modules not loaded from init_from, such as id tables")
    adaptation: AdaptationConfig = Field(FullConfig(), description="which parameters are trained, and which are added")
    prefix_cache: PrefixCacheConfig = Field(
        PrefixCacheConfig(), description="outputs of the frozen layers, computed once before training"
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW, its learning rates and their schedule")
    train: TrainConfig = Field(TrainConfig(), description="steps, batches, precision, validation, checkpoints")
    zero: Annotated[ZeroConfig, MayDiffer()] = Field(ZeroConfig(), description="how model state is split across ranks")
    deepspeed: Annotated[dict[str, Any], MayDiffer(keys=("zero_optimization",))] = Field(
        {}, description="additional DeepSpeed settings, passed through"
    )
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="metrics for validation and test")

    @property
    def not_inherited(self) -> list[str]:
        """Modules of the `init_from` run whose weights are not loaded."""
        replaced = self.model.replaced_by_targets if isinstance(self.data.examples, TaskExamplesConfig) else ()
        return [*self.fresh_modules, *replaced]

    @property
    def fresh_modules(self) -> list[str]:
        """Modules initialised anew, even if the source has them: an objective's parameters belong to its own loss."""
        return [*self.init_except, *self.model.never_inherited]

    def adapter_rates(self) -> dict[str, float]:
        """Peak learning rates that the adaptation method sets for its adapters, by name.

        Empty if `optimizer.lr.adapter` is set, which replaces them.
        """
        return {} if self.optimizer.lr.adapter is not None else self.adaptation.adapter_rates(self.model.modalities)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train.monitor not in self.evaluation.metrics:
            raise ValueError(
                f"train.monitor {self.train.monitor!r} is not among evaluation.metrics: add it there, or choose one of "
                f"{', '.join(self.evaluation.metrics)}"
            )
        if metric(self.train.monitor).higher_is_better is None:
            raise ValueError(
                f"train.monitor {self.train.monitor!r} cannot choose the best weights, because neither direction "
                "of it is better: choose another metric"
            )
        if (self.data.stride or 0) > self.model.max_length:
            raise ValueError(
                f"data.stride {self.data.stride} exceeds model.max_length {self.model.max_length}: choose a smaller one"
            )
        if self.data.windows == "last" and isinstance(self.data.split, TemporalConfig):
            raise ValueError(
                "data.windows=last keeps interactions that data.split.name=temporal must exclude: set "
                "data.windows=all, or choose another split"
            )
        if self.train.compile and self.zero.stage == 3:
            raise ValueError(
                "with train.compile=true, a pass cannot gather the weights of each layer as zero.stage=3 requires: set "
                "zero.stage to 0, 1 or 2, or leave out train.compile"
            )
        if self.train.gradient_checkpointing == "passes" and self.zero.stage == 3:
            raise ValueError(
                "with train.gradient_checkpointing=passes, a pass cannot gather the weights of each layer as "
                "zero.stage=3 requires: set zero.stage to 0, 1 or 2, or train.gradient_checkpointing=true"
            )
        if self.train.precision == "bf16_weights" and self.zero.stage == 0:
            raise ValueError(
                "train.precision=bf16_weights needs the fp32 master weights of zero.stage 1, 2 or 3: set zero.stage, "
                "or train.precision=bf16"
            )
        if self.optimizer.embedding is not None:
            self._check_tables(self.optimizer.embedding.name)
        if self.init_except and self.init_from is None:
            raise ValueError("init_except is set without init_from: set both or neither")
        return self

    def _check_tables(self, name: str) -> None:
        if self.zero.stage == 3:
            raise ValueError(
                f"optimizer.embedding.name={name} keeps tables whole on every rank, but zero.stage=3 splits them: "
                "set zero.stage to 0, 1 or 2"
            )
        if self.train.precision in ("fp16", "bf16_weights"):
            raise ValueError(
                f"optimizer.embedding.name={name} keeps no fp32 copy of 16-bit weights: set train.precision to bf16 or "
                "fp32"
            )
        if name == "rowwise_adagrad" and self.optimizer.lr.embedding is None:
            raise ValueError(
                "optimizer.embedding.name=rowwise_adagrad needs its own learning rate, because Adagrad needs a larger "
                "one than Adam: set optimizer.lr.embedding, to 0.01 for example"
            )

    @model_validator(mode="after")
    def _fits_the_examples(self) -> Self:
        self.model.check_examples(self.data.examples.name)
        if isinstance(self.data.examples, ImpressionsConfig) and isinstance(self.model, RankingModelConfig):
            known, predicted = self.data.examples.heads, self.model.objective.heads
            if known != predicted:
                raise ValueError(
                    f"data.examples.heads {known} and model.objective.heads {predicted} differ: set both "
                    "to the same list"
                )
        if isinstance(self.data.examples, TaskExamplesConfig) and isinstance(self.data.split, TemporalConfig):
            raise ValueError("data.split.name=temporal splits histories, but a task splits users: remove data.split")
        return self
