"""A whole run as one typed object, and how its parts are put together."""

import json
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
from transrec.adaptation.groups import parameter_groups
from transrec.config import Config, ConfigError, UserPath, dump, load, read_yaml, validate
from transrec.data.bad_samples import Skipped, check_share, find_bad
from transrec.data.interactions import DataConfig, Interactions
from transrec.data.item_shards import ItemShards
from transrec.data.item_store import ItemStore, is_tokenised
from transrec.data.remote import public
from transrec.data.schema import ShardIndex
from transrec.data.shard_folder import ShardFolder
from transrec.data.splits import TemporalConfig
from transrec.deepspeed_config import ZeroConfig
from transrec.distributed import World
from transrec.evaluation.evaluator import EvaluationConfig
from transrec.files import write_text, writing
from transrec.models import ModelConfig
from transrec.optim import OptimizerConfig
from transrec.tracking import flatten
from transrec.trainer import TrainConfig

CONFIG_FILE = "config.yaml"
_FROM_THE_LAUNCHER = "--local_rank="  # put in for each rank; nobody types it

# What may differ when a run is resumed: how the work is done, not what is learnt.
MAY_DIFFER = (
    "zero",  # where weights and optimizer state lie
    "deepspeed.zero_optimization",  # how they travel; other DeepSpeed keys may change the arithmetic
    "data.path",  # the checkpoint holds the hash of the shards
    "data.cache",
    "data.cache_bytes",
    "data.workers",  # steps are dealt out to them in order
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
    adaptation: AdaptationConfig = FullConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    zero: ZeroConfig = ZeroConfig()
    deepspeed: dict[str, Any] = Field({}, description="further DeepSpeed keys, passed through")
    evaluation: EvaluationConfig = EvaluationConfig()

    def build(self, world: World) -> "Parts":
        """Data, then model -> source weights -> adapters and freezing: that order is law."""
        interactions = Interactions.scan(self.data, self.model.max_length, world.union)
        store = open_store(self.model, interactions.shards.folder, self.data, world)
        torch.manual_seed(self.seed)
        model = self.model.build(interactions.shards.index.counts.items)
        if self.init_from is not None:
            start_from(model, self.init_from, interactions.shards.index)
        check_frozen(self)
        self.adaptation.apply(model)
        if self.train.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        return Parts(interactions, store, model, weights.base_hash(model))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train.monitor not in self.evaluation.metrics:
            raise ValueError(f"train.monitor {self.train.monitor!r} is not among evaluation.metrics")
        if (self.data.stride or 0) > self.model.max_length:
            raise ValueError(f"data.stride {self.data.stride} exceeds model.max_length {self.model.max_length}")
        if self.data.windows == "last" and isinstance(self.data.split, TemporalConfig):
            raise ValueError("data.windows=last keeps interactions that data.split.name=temporal may not see")
        return self


@dataclass(frozen=True)
class Parts:
    """What a run is made of; `base` is the hash of the frozen weights."""

    interactions: Interactions
    store: ItemStore
    model: nn.Module
    base: str

    @property
    def skipped(self) -> tuple[Skipped, Skipped]:
        """The blocks of users and the items that are left out."""
        return self.interactions.shards.skipped, self.store.skipped


def open_store(model: ModelConfig, folder: ShardFolder, data: DataConfig, world: World) -> ItemStore:
    """The item store of `folder`; the first process of a node fills it, the others wait."""
    content = model.item_encoder.content()
    first_of_node, skipped = world.local_rank == 0, {}
    if content is not None and data.on_bad_sample == "skip":
        items = ItemShards(folder)
        unknown = first_of_node and not is_tokenised(folder, content, data.cache)
        skipped = find_bad(items, items.numbers if unknown else (), world.union)
        check_share(skipped, len(skipped), len(items.numbers), data.most_bad_share, "items")
    if first_of_node:
        store = ItemStore(folder, content, data.cache, skipped)
        world.barrier()
        return store
    world.barrier()
    return ItemStore(folder, content, data.cache, skipped)


def start_from(model: nn.Module, run_dir: Path, index: ShardIndex) -> None:
    """Load all weights of another run, strictly, before anything is attached.

    Raises:
        ConfigError: the run was trained with adapters, without which its other weights are not what it learnt.
    """
    source = rebuild_for(load_run(run_dir), run_dir, index).state_dict()
    if any(".adapter." in name for name in source):
        raise ConfigError(f"`init_from`: {run_dir} was trained with adapters; start from a fully trained run")
    weights.load_strictly(model, source)


def rebuild_for(experiment: Experiment, run_dir: Path, index: ShardIndex) -> nn.Module:
    """The trained model of a run, to be used on the items of `index`.

    A run holds every weight it trained; the frozen ones come from where the run had them: its backbone, its
    `init_from`.

    Raises:
        ConfigError: the run has no export, or it embeds the item ids of another catalogue.
    """
    export = run_dir / "export"
    trained_on = read_export_config(run_dir)
    if experiment.model.item_encoder.name == "id_embedding" and trained_on["item_ids_sha256"] != index.item_ids_sha256:
        raise ConfigError(f"{run_dir} embeds the item ids of another catalogue: it is of no use for these shards")
    adapted = (export / weights.ADAPTER_FILE).exists()
    torch.manual_seed(experiment.seed)
    model = model_of(experiment, run_dir).build(index.counts.items)
    if adapted and experiment.init_from is not None:
        start_from(model, experiment.init_from, index)
    experiment.adaptation.apply(model)
    weights.load_export(export, model)
    return model


def model_of(experiment: Experiment, run_dir: Path) -> ModelConfig:
    """How to build a run's model: a fully trained one takes all it needs from its export, tokenizer included."""
    export = run_dir / "export"
    return experiment.model if (export / weights.ADAPTER_FILE).exists() else experiment.model.from_export(export)


def check_frozen(experiment: Experiment) -> None:
    """Refuse to freeze weights that were never trained: nothing could be learnt through them, or rebuilt later."""
    if experiment.init_from is None and "head" not in experiment.adaptation.trainable_groups:
        raise ConfigError(
            "without `init_from` the projection and the user encoder are random, and this adaptation freezes them: "
            "name a trained run with `init_from`, or set `adaptation.also_train=[head]`"
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


def read_export_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "export" / weights.CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{run_dir} has no export yet: let its training reach a validation") from None


def export_config(experiment: Experiment, index: ShardIndex) -> dict[str, Any]:
    """`export/config.json`: what the weights are for."""
    return {
        "architecture": "transrec",
        "transrec_version": version("transrec"),
        "num_items": index.counts.items,
        "item_ids_sha256": index.item_ids_sha256,
        "model": experiment.model.model_dump(mode="json"),
        "adaptation": experiment.adaptation.model_dump(mode="json"),
        "init_from": str(experiment.init_from) if experiment.init_from else None,
    }


def check_run_dir(experiment: Experiment) -> None:
    """A run folder is new, or it belongs to the same experiment, but for what `MAY_DIFFER`.

    Raises:
        ConfigError: the folder holds another experiment (naming what differs), or something else.
    """
    run_dir, path = experiment.run_dir, experiment.run_dir / CONFIG_FILE
    if path.exists():
        changed = differences(validate(Experiment, read_yaml(path)), experiment)
        differing = [text for key, text in changed.items() if not _may_differ(key)]
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


def _may_differ(key: str) -> bool:
    return any(key == field or key.startswith(f"{field}.") for field in MAY_DIFFER)


def environment() -> dict[str, Any]:
    packages = {}
    for name in ("transrec", "torch", "deepspeed", "transformers", "tokenizers", "pyarrow", "numpy"):
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


def count_parameters(model: nn.Module) -> dict[str, Any]:
    """Totals, and by parameter group; call before ZeRO partitions them."""
    groups = {
        group: {
            "total": sum(p.numel() for _, p in members),
            "trainable": sum(p.numel() for _, p in members if p.requires_grad),
        }
        for group, members in parameter_groups(model).items()
    }
    return {kind: sum(g[kind] for g in groups.values()) for kind in ("total", "trainable")} | {"groups": groups}
