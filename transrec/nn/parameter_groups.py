"""The single partition of a model's parameters, used for freezing, learning rates and costs.

Groups and towers are found from the modules that the model and its encoders declare, never from parts of parameter
names.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from transrec.protocols import Adapter, CatalogueTable, EmbeddingTable, Model, Tower

Group = Literal["task", "adapter", "layer_norm", "backbone", "head"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Member:
    """A parameter and where it belongs."""

    name: str
    parameter: nn.Parameter
    group: Group
    towers: frozenset[str]  # names of the towers that contain it
    pretrained: bool  # belongs to a pretrained module, LayerNorms included
    table: Literal["item", "feature"] | None  # has a row for each item of a catalogue, or each value of a feature


def members(model: Model) -> list[Member]:
    """Every parameter of `model`, in the model's order."""
    new = _of(model.always_trained())
    adapters = _of(module for module in model.modules() if isinstance(module, Adapter))
    norms = _of(module for module in model.modules() if isinstance(module, nn.LayerNorm))
    items = _of(module for module in model.modules() if isinstance(module, CatalogueTable))
    features = _of(module for module in model.modules() if isinstance(module, EmbeddingTable))
    towers = model.towers()
    pretrained = _of(module for tower in towers.values() for module in pretrained_modules(tower))
    inside = {name: _of([model.get_submodule(tower.prefix)]) for name, tower in towers.items()}
    groups: list[tuple[Group, set[int]]] = [("task", new), ("adapter", adapters), ("layer_norm", norms)]
    groups.append(("backbone", pretrained))
    return [
        Member(
            name,
            parameter,
            next((group for group, there in groups if id(parameter) in there), "head"),
            frozenset(tower for tower, there in inside.items() if id(parameter) in there),
            id(parameter) in pretrained,
            "item" if id(parameter) in items else "feature" if id(parameter) in features else None,
        )
        for name, parameter in model.named_parameters()
    ]


def parameter_groups(model: Model) -> dict[Group, list[Member]]:
    """Every parameter of `model` in exactly one group, in the model's order.

    task        new modules that are always trained: a task's head, with its token
    adapter     modules added by adaptation
    layer_norm  every LayerNorm, of the backbone and elsewhere
    backbone    the rest of the pretrained modules
    head        everything else: the projection, the user encoder, item id embeddings, tables of features, an
                objective's own parameters
    """
    groups: dict[Group, list[Member]] = {group: [] for group in GROUPS}
    for member in members(model):
        groups[member.group].append(member)
    return groups


def train_only(model: Model, trains: Callable[[Member], bool]) -> None:
    """Freeze every parameter except those in the group `task` and those for which `trains` returns true."""
    for member in members(model):
        member.parameter.requires_grad_(member.group == "task" or trains(member))


def pretrained_modules(tower: Tower) -> list[nn.Module]:
    """Pretrained modules of a tower."""
    return [leaf.encoder.get_submodule(path) for leaf in tower.leaves for path in leaf.encoder.pretrained]


def _of(modules: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}
