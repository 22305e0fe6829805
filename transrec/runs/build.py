"""Builds the parts of a run from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from transrec import weights
from transrec.adaptation.method import Rates
from transrec.config import ConfigError, may_differ
from transrec.data.content.item_store import ItemStore
from transrec.data.content.opening import open_store
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.schema import ShardIndex
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.nn.parameter_groups import parameter_groups
from transrec.phases import did, phase
from transrec.protocols import CatalogueTable, Examples, Model, ModelSettings
from transrec.runs.evidence import look_up, with_statistics
from transrec.runs.export import read_export
from transrec.runs.features import count_features
from transrec.runs.rebuild import check_left_out, left_out, outside, source_weights
from transrec.runs.run_folder import comparable, load
from transrec.terminal import messages
from transrec.training.prefix_cache import keep_prefixes
from transrec.training.records import flatten

_FUSION = "item_encoder.fusion"  # its key, and the name of its module
# Encoder settings that may differ in a transfer. The check of the weights detects a different number of layers.
_SAME_CONTENT = ("backbone", "pretrained", "layers", "dropout", "augment")


@dataclass(frozen=True)
class Parts:
    """The data, content and model of a run."""

    examples: Examples
    settings: ModelSettings  # of the model, including statistics of the examples
    store: ItemStore
    model: Model
    rates: Rates  # learning rates of the adapters
    base: str  # hash of the frozen weights

    @property
    def skipped(self) -> tuple[Skipped, Skipped]:
        """The skipped blocks of users, and the skipped items."""
        return self.examples.skipped, self.store.skipped


def build(experiment: Experiment, world: World) -> Parts:
    """Build data and model, in a fixed order: model, source weights, task head, then adapters and freezing."""
    with phase("scan"):
        examples = experiment.data.scan(experiment.model.max_length, world)
        did(**size_of_set(examples.folder.index))
    if not examples.folder.index.counts.users:
        raise ConfigError(
            f"{examples.folder} has items but no users: train on shards with interactions, and use these as the "
            "`--catalogue` of the trained run"
        )
    examples.check_training()
    look_up(experiment.model, examples, world)
    settings = with_statistics(count_features(experiment, examples), examples, world)
    store = open_store(examples.folder, experiment.model.content(), experiment.data, world)
    torch.manual_seed(experiment.seed)
    model = settings.build(examples.folder.index.counts.items)
    if experiment.init_from is not None:
        start_from(model, experiment, examples.folder.index)
        _warn_of_other_content(experiment, world)
    model.answer(examples.targets)
    rates = experiment.adaptation.apply(model)
    check_frozen(experiment, model)
    keep_prefixes(experiment.prefix_cache, model, store, experiment.data.cache, experiment.train.precision, world)
    if experiment.train.gradient_checkpointing:
        model.enable_gradient_checkpointing(passes=experiment.train.gradient_checkpointing == "passes")
    return Parts(examples, settings, store, model, rates, weights.base_hash(model))


def size_of_set(index: ShardIndex) -> dict[str, int]:
    """The numbers of users, items and interactions in a set of shards, and the total bytes of each kind of file."""
    counts = index.counts
    kinds = {file.kind for file in index.files}
    sizes = {f"bytes_of_{kind}": sum(file.bytes for file in index.of_kind(kind)) for kind in sorted(kinds)}
    return {"users": counts.users, "items": counts.items, "interactions": counts.interactions, **sizes}


def start_from(model: nn.Module, experiment: Experiment, index: ShardIndex) -> None:
    """Load the weights of `experiment.init_from` strictly into `model`, before adapters are attached.

    Raises:
        ConfigError: that run was trained with adapters, embeds the item ids of another catalogue, or has weights
            with other shapes.
    """
    assert experiment.init_from is not None
    source, fresh = experiment.init_from, left_out(model, experiment.fresh_modules)
    learnt = load(source)
    ids = [name for name in of_the_catalogue(model) if name not in fresh]
    if ids and read_export(source / "export").item_ids_sha256 != index.item_ids_sha256:
        raise ConfigError(
            f"`init_from`: {source} embeds the item ids of another catalogue ({ids[0]}): initialise these weights "
            f"anew with `init_except=[{','.join(dict.fromkeys(name.rsplit('.', 1)[0] for name in ids))}]`"
        )
    taken = source_weights(experiment)
    check_left_out(model, taken, experiment.init_except)
    try:
        weights.load_strictly(model, outside(taken, experiment.not_inherited), fresh)
    except weights.WeightsError as error:
        raise ConfigError(f"`init_from`: {source}: {error}{_how_models_differ(learnt, experiment)}") from None
    torch.manual_seed(experiment.seed)  # loading the source may have used random numbers


def _how_models_differ(source: Experiment, target: Experiment) -> str:
    there, now = _models(source, target)
    common = [key for key in there if key in now and not key.startswith("objective.")]
    lines = [_in_both(key, there[key], now[key]) for key in common if there[key] != now[key]]
    if lines:
        lines.append("use the source's values, or train what differs from scratch with init_except")
    if there["max_length"] != now["max_length"]:
        lines.append(f"the user encoder has an embedding for each position: set model.max_length={there['max_length']}")
    if len(now.get("evidence", ())) > len(there.get("evidence", ())):
        lines.append(
            "the source has no weights for some of this run's evidence: set init_except=[evidence] to start evidence "
            "from its configured weight and scale"
        )
    if _fusions(there) != _fusions(now) and _FUSION not in target.init_except:
        excepted = ", ".join([*target.init_except, _FUSION])
        lines.append(f"to train the fusion from scratch, set init_except=[{excepted}]")
    return "".join(f"\n  {line}" for line in lines)


def _models(*experiments: Experiment) -> tuple[Mapping[str, Any], ...]:
    """The settings of the models by dotted key; paths have one spelling."""
    return tuple(flatten(comparable(one).model.model_dump(mode="json")) for one in experiments)


def _fusions(model: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in model.items() if key.startswith(f"{_FUSION}.")}


def _in_both(key: str, there: Any, now: Any) -> str:
    return f"model.{key} is {there} in the source run but {now} in this run"


def _warn_of_other_content(experiment: Experiment, world: World) -> None:
    """Warn of item encoder settings that differ from the source's although all weights have the same shapes."""
    assert experiment.init_from is not None
    learnt = load(experiment.init_from)
    there, now = _models(learnt, experiment)
    ignored = may_differ(learnt.model) | may_differ(experiment.model)
    differing = [
        _in_both(key, there[key], now[key])
        for key in there
        if key.startswith("item_encoder.") and key in now and there[key] != now[key]
        if key not in ignored and key.rpartition(".")[2] not in _SAME_CONTENT
    ]
    if differing and world.is_main and "item_encoder" not in experiment.init_except:
        messages().print(
            f"warning: the weights of `init_from` ({experiment.init_from}) were trained with other item encoder "
            "settings: " + "; ".join(differing) + "; use the source's values unless this is intended"
        )


def of_the_catalogue(model: nn.Module) -> list[str]:
    """Names of the weights that belong to the items of one catalogue."""
    tables = [name for name, module in model.named_modules() if isinstance(module, CatalogueTable)]
    return left_out(model, tables)


def check_frozen(experiment: Experiment, model: Model) -> None:
    """Refuse to freeze untrained weights: they would stay random, and could not be restored with the run."""
    fresh = left_out(model, experiment.fresh_modules)
    frozen = [
        member.name
        for member in parameter_groups(model)["head"]
        if (experiment.init_from is None or member.name in fresh) and not member.parameter.requires_grad
    ]
    train_it = (
        "train the head by adding `also_train: [head]` to the adaptation, or by combining it with `{name: head_only}`"
    )
    if frozen and experiment.init_from is not None:
        raise ConfigError(f"with this `init_except`, {frozen[0]} would be random and frozen: {train_it}")
    if frozen:
        raise ConfigError(
            "without `init_from` the projection and the user encoder are random, and this adaptation freezes them: "
            f"name a trained run with `init_from`, or {train_it}"
        )
