"""Rebuilds the trained model of a run from its folder and its base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from transrec import weights
from transrec.config import ConfigError
from transrec.data.batch import Targets
from transrec.data.shards.schema import ShardIndex
from transrec.experiment import Experiment
from transrec.protocols import Examples, Model
from transrec.runs.export import is_adapted, read_export
from transrec.runs.run_folder import load


@dataclass(frozen=True)
class Base:
    """The base of adapted runs: its weights, and the random state from which adapters are initialised.

    Designs considered for several adapters on one base. Removing modules and hooks again: every method would have to
    undo its changes, including those to weights of the base that it trained. Copying the base's module tree: each copy
    would have the pooling, heads and so on of the first run. Building each run's own module tree from its own
    configuration and sharing the tensors of the base. Chosen: the last. A model is built as it would be alone, nothing
    has to be undone, and the models can be used side by side.
    """

    weights: Mapping[str, Tensor]
    random: Tensor | None  # None: adapters are initialised from the run's seed

    @classmethod
    def load(cls, experiment: Experiment, export: Path, num_items: int) -> "Base":
        """The base of a run with this export: its `init_from`, or its pretrained backbone and own initial weights."""
        if experiment.init_from is not None:
            return cls(source_weights(experiment), None)
        torch.manual_seed(experiment.seed)
        return cls(experiment.model.known_from(export).build(num_items).state_dict(), torch.get_rng_state())

    def to(self, device: torch.device) -> "Base":
        return replace(self, weights={name: tensor.to(device) for name, tensor in self.weights.items()})

    def with_adapter(self, experiment: Experiment, export: Path, num_items: int) -> Model:
        """The model of a run trained on this base; weights that it did not change share the memory of the base.

        Raises:
            WeightsError: the run was trained on another base.
        """
        model = experiment.model.from_export(export).build(num_items)
        kept = outside(self.weights, experiment.not_inherited)
        try:
            weights.load_strictly(model, kept, left_out(model, experiment.fresh_modules))
        except weights.WeightsError as error:
            raise weights.WeightsError(
                f"the adapter {export} does not fit this base: {error}\nName the right one with --run or `base`"
            ) from None
        if self.random is None:
            torch.manual_seed(experiment.seed)
        else:
            torch.set_rng_state(self.random)
        answer(model, export)
        experiment.adaptation.apply(model)
        weights.load_export(export, model)
        model.to(next(iter(self.weights.values())).device)  # adapters too: they were created on the model's device
        weights.share_frozen(model, self.weights)
        return model


def rebuild_for(experiment: Experiment, run_dir: Path, index: ShardIndex) -> Model:
    """The trained model of a run, for the items of `index`.

    A run holds every weight it trained; frozen weights are loaded from its backbone or `init_from`.

    Raises:
        ConfigError: the run has no export, or embeds the item ids of another catalogue.
    """
    export = run_dir / "export"
    check_catalogue(experiment, export, index)
    return rebuild(experiment, export, index.counts.items)


def rebuild(experiment: Experiment, export: Path, num_items: int) -> Model:
    """Like `rebuild_for`, for a catalogue of `num_items` items that has already been checked."""
    if is_adapted(export):
        return Base.load(experiment, export, num_items).with_adapter(experiment, export, num_items)
    model = experiment.model.from_export(export).build(num_items)
    answer(model, export)
    experiment.adaptation.apply(model)  # adapters of a run in which no weights were frozen
    weights.load_export(export, model)
    return model


def answer(model: Model, export: Path) -> None:
    """Set the targets that the export was trained for: items, or the targets of a task."""
    names = read_export(export).targets
    if names is not None:
        model.answer(Targets(len(names), of_items=False))


def check_catalogue(experiment: Experiment, export: Path, index: ShardIndex) -> None:
    """Refuse to use a model that embeds item ids with another catalogue."""
    same = read_export(export).item_ids_sha256 == index.item_ids_sha256
    if not same and experiment.model.embeds_ids:
        raise ConfigError(f"{export.parent} embeds the item ids of another catalogue: use the shards it was trained on")


def check_targets(export: Path, examples: Examples) -> None:
    """Refuse to use a model with data that has other targets.

    Raises:
        ConfigError: the targets differ; the message names some that only one side has.
    """
    known = read_export(export).targets or []
    asked = [] if examples.targets.of_items else examples.target_names().to_pylist()
    if known != asked:
        differing = sorted(set(known) ^ set(asked))[:4]
        raise ConfigError(
            f"the targets of {export.parent} ({len(known)}) and of the data ({len(asked)}) differ"
            f"{', for example ' + ', '.join(differing) if differing else ''}: use data for the task of the run"
        )


def source_weights(experiment: Experiment) -> dict[str, Tensor]:
    """All weights of the run that `experiment` starts from.

    Raises:
        ConfigError: that run is missing, or was trained with adapters, without which its other weights are invalid.
    """
    run_dir = experiment.init_from
    assert run_dir is not None
    if not run_dir.exists():
        raise ConfigError(
            f"{run_dir}, the base of {experiment.run_dir}, no longer exists: give its new path with "
            f"--adapter {experiment.run_dir} --run BASE"
        )
    export = run_dir / "export"
    num_items = read_export(export).num_items
    if is_adapted(export):
        source = rebuild(load(run_dir), export, num_items).state_dict()
    else:
        source = weights.read(export / weights.MODEL_FILE)
    if any(".adapter." in name for name in source):
        raise ConfigError(f"`init_from`: {run_dir} was trained with adapters: start from a run without adapters")
    return source


def left_out(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """Names of the weights in `modules`."""
    return [name for name in weights.names(model) if name.startswith(tuple(f"{module}." for module in modules))]


def outside(source: Mapping[str, Tensor], modules: Sequence[str]) -> dict[str, Tensor]:
    """The weights of `source` that are not in `modules`."""
    inside = tuple(f"{module}." for module in modules)
    return {name: tensor for name, tensor in source.items() if not name.startswith(inside)}


def check_left_out(model: nn.Module, source: Mapping[str, Tensor], modules: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: neither the model nor the source has weights in one of the modules.
    """
    for module in modules:
        if not any(name.startswith(f"{module}.") for name in (*weights.names(model), *source)):
            children = [name for name, child in model.named_modules() if name.count(".") == 1 and weights.names(child)]
            raise ConfigError(
                f"`init_except`: the model has no {module!r}: choose from {', '.join(children)} and their parts"
            )
