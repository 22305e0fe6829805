"""A whole run as one typed object, and how its parts are put together."""

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from pydantic import Field, model_validator
from torch import nn

from transrec import weights
from transrec.adaptation import AdaptationConfig, FullConfig
from transrec.adaptation.method import Rates
from transrec.config import Config, ConfigError, UserPath, dump, load, read_yaml, validate
from transrec.data.content.item_store import ItemStore
from transrec.data.content.opening import open_store
from transrec.data.examples import DataConfig
from transrec.data.examples.splits import TemporalConfig
from transrec.data.examples.task import TaskExamplesConfig
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.remote import public
from transrec.data.shards.schema import ShardIndex
from transrec.distributed.world import World
from transrec.evaluation.evaluator import EvaluationConfig
from transrec.files import write_text, writing
from transrec.models import ModelConfig
from transrec.nn.parameter_groups import parameter_groups
from transrec.objectives.classification import ClassificationConfig
from transrec.protocols import CatalogueTable, Examples, Model
from transrec.runs.rebuild import check_left_out, left_out, outside, read_export_config, source_weights
from transrec.training.engine import ZeroConfig
from transrec.training.optim import OptimizerConfig
from transrec.training.prefix_cache import PrefixCacheConfig, keep_prefixes
from transrec.training.tracking import flatten
from transrec.training.trainer import TrainConfig

CONFIG_FILE = "config.yaml"
_FROM_THE_LAUNCHER = "--local_rank="  # put in for each rank; nobody types it

# What may differ when a run is resumed: how the work is done, not what is learnt.
MAY_DIFFER = (
    "zero",  # where weights and optimizer state lie
    "deepspeed.zero_optimization",  # how they travel; other DeepSpeed keys may change the arithmetic
    "data.path",  # the checkpoint holds the hash of the shards
    "data.examples.targets.target",  # likewise of the targets of a task
    "data.examples.targets.path",
    "data.cache",
    "data.cache_bytes",
    "data.workers",  # steps are dealt out to them in order
    "data.most_bad_share",  # a limit; what is left out is the same
    "model.item_encoder.chunk_tokens",  # how items are cut into encoder passes
    "model.item_encoder.text.chunk_tokens",
    "model.item_encoder.chunk_images",
    "model.item_encoder.image.chunk_images",
    "model.item_encoder.decoded_cache",  # where pixels come from
    "model.item_encoder.image.decoded_cache",
    "train.accumulation",  # a batch is cut up as other numbers of ranks cut it
    "train.gradient_checkpointing",
    "train.log_every",
    "train.checkpoint_every",
)


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

    def source(self) -> "Experiment":
        """That of the run it starts from."""
        assert self.init_from is not None
        return load_run(self.init_from)

    @property
    def not_inherited(self) -> list[str]:
        """Modules of the run that it starts from whose weights it does without."""
        replaced = self.model.replaced_by_targets if isinstance(self.data.examples, TaskExamplesConfig) else ()
        return [*self.init_except, *replaced]

    def build(self, world: World) -> "Parts":
        """Data, then model -> source weights -> head of a task -> adapters and freezing: that order is law."""
        examples = self.data.scan(self.model.max_length, world.union)
        store = open_store(examples.folder, self.model.content(), self.data, world)
        torch.manual_seed(self.seed)
        model = self.model.build(examples.folder.index.counts.items)
        if self.init_from is not None:
            start_from(model, self, examples.folder.index)
        model.answer(examples.targets)
        rates = self.adaptation.apply(model)
        check_frozen(self, model)
        keep_prefixes(self.prefix_cache, model, store, self.data.cache, self.train.precision, world)
        if self.train.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        return Parts(examples, store, model, rates, weights.base_hash(model))

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


@dataclass(frozen=True)
class Parts:
    """What a run is made of; `base` is the hash of the frozen weights."""

    examples: Examples
    store: ItemStore
    model: Model
    rates: Rates  # learning rates of the adapters
    base: str

    @property
    def skipped(self) -> tuple[Skipped, Skipped]:
        """The blocks of users and the items that are left out."""
        return self.examples.skipped, self.store.skipped


def start_from(model: nn.Module, experiment: Experiment, index: ShardIndex) -> None:
    """Load the weights of `experiment.init_from` into its model, strictly, before anything is attached.

    Raises:
        ConfigError: that run was trained with adapters, embeds the items of another catalogue, or is of another shape.
    """
    assert experiment.init_from is not None
    source, fresh = experiment.init_from, left_out(model, experiment.init_except)
    learnt = experiment.source()
    ids = [name for name in of_the_catalogue(model) if name not in fresh]
    if ids and read_export_config(source / "export")["item_ids_sha256"] != index.item_ids_sha256:
        raise ConfigError(
            f"`init_from`: {source} embeds the item ids of another catalogue ({ids[0]}); leave those weights fresh "
            f"with `init_except=[{','.join(dict.fromkeys(name.rsplit('.', 1)[0] for name in ids))}]`"
        )
    taken = source_weights(experiment)
    check_left_out(model, taken, experiment.init_except)
    try:
        weights.load_strictly(model, outside(taken, experiment.not_inherited), fresh)
    except weights.WeightsError as error:
        raise ConfigError(f"`init_from`: {source}: {error}{_how_models_differ(learnt, experiment)}") from None
    torch.manual_seed(experiment.seed)  # what is drawn next follows from the seed, not from how the source was read


def _how_models_differ(source: Experiment, target: Experiment) -> str:
    there, now = (flatten(experiment.model.model_dump(mode="json")) for experiment in (source, target))
    common = [key for key in there if key in now and not key.startswith("objective.")]
    lines = [f"model.{key} is {there[key]} there, {now[key]} here" for key in common if there[key] != now[key]]
    if there["max_length"] != now["max_length"]:
        lines.append(f"the user encoder has an embedding for each position: set model.max_length={there['max_length']}")
    return "".join(f"\n  {line}" for line in lines)


def of_the_catalogue(model: nn.Module) -> list[str]:
    """Names of weights that belong to the items of one catalogue."""
    tables = [name for name, module in model.named_modules() if isinstance(module, CatalogueTable)]
    return left_out(model, tables)


def check_frozen(experiment: Experiment, model: Model) -> None:
    """Refuse to freeze weights that were never trained: nothing could be learnt through them, or rebuilt later."""
    fresh = left_out(model, experiment.init_except)
    frozen = [
        member.name
        for member in parameter_groups(model)["head"]
        if (experiment.init_from is None or member.name in fresh) and not member.parameter.requires_grad
    ]
    train_it = "let the head learn: `also_train: [head]` in the adaptation, or `{name: head_only}` beside it in a list"
    if frozen and experiment.init_from is not None:
        raise ConfigError(f"`init_except`: {frozen[0]} would be random and frozen; {train_it}")
    if frozen:
        raise ConfigError(
            "without `init_from` the projection and the user encoder are random, and this adaptation freezes them: "
            f"name a trained run with `init_from`, or {train_it}"
        )


def load_run(run_dir: Path) -> Experiment:
    """The experiment a run folder holds.

    Raises:
        ConfigError: the folder is not a run.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}")
    return load(Experiment, path)


def export_config(experiment: Experiment, examples: Examples) -> dict[str, Any]:
    """`export/config.json`: what the weights are for."""
    index, kind = examples.folder.index, experiment.data.examples
    return {
        "architecture": "transrec",
        "transrec_version": version("transrec"),
        "num_items": index.counts.items,
        "item_ids_sha256": index.item_ids_sha256,
        "model": experiment.model.model_dump(mode="json"),
        "adaptation": experiment.adaptation.model_dump(mode="json"),
        "seed": experiment.seed,
        "init_from": str(experiment.init_from) if experiment.init_from else None,
        "init_except": experiment.init_except,
        "task": kind.targets.model_dump(mode="json") if isinstance(kind, TaskExamplesConfig) else None,
        "targets": None if examples.targets.of_items else examples.target_names().to_pylist(),
        "evaluation": experiment.evaluation.model_dump(mode="json"),
    }


def check_run_dir(experiment: Experiment) -> None:
    """A run folder is new, or it belongs to the same experiment, but for what `MAY_DIFFER`.

    Raises:
        ConfigError: the folder holds another experiment (naming what differs), or something else.
    """
    run_dir, path = experiment.run_dir, experiment.run_dir / CONFIG_FILE
    if path.exists():
        changed = differences(validate(Experiment, read_yaml(path)), experiment)
        differing = [text for key, text in changed.items() if not may_differ(key)]
        if differing:
            listed = "\n  ".join(differing)
            raise ConfigError(
                f"{run_dir} holds another experiment; it differs in:\n  {listed}\n"
                "Choose another run_dir, or start with the configuration of that run to resume it."
            )
    elif run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(f"{run_dir} is not empty and not a run folder: choose another run_dir")


def write_run_dir(experiment: Experiment) -> None:
    """Begin a new run folder; in one that is there, write down what now differs."""
    path = experiment.run_dir / CONFIG_FILE
    if path.exists():
        if differences(validate(Experiment, read_yaml(path)), experiment):
            write_text(path, dump(experiment))
        return
    with writing(experiment.run_dir):
        experiment.run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, dump(experiment))
    write_text(experiment.run_dir / "environment.yaml", yaml.safe_dump(environment(), sort_keys=False))


def differences(old: Experiment, new: Experiment) -> dict[str, str]:
    """By dotted key, what it was and what it is."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return {
        key: public(f"{key}: {before.get(key)!r}") + " there, " + public(f"{after.get(key)!r} now")
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def may_differ(key: str) -> bool:
    return any(key == field or key.startswith(f"{field}.") for field in MAY_DIFFER)


def environment() -> dict[str, Any]:
    packages = {}
    for name in ("transrec", "torch", "deepspeed", "transformers", "tokenizers", "pillow", "pyarrow", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": [public(argument) for argument in sys.argv if not argument.startswith(_FROM_THE_LAUNCHER)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": packages,
    }
