"""The one partition of a model's parameters; freezing and learning rates both read it."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

Group = Literal["task", "adapter", "layer_norm", "backbone", "head"]
GROUPS: tuple[Group, ...] = get_args(Group)


def parameter_groups(model: nn.Module) -> dict[Group, list[tuple[str, nn.Parameter]]]:
    """Every parameter of `model` in exactly one group, in the model's order.

    task        the head of a task, with its token; it is new and always trains
    adapter     modules put in by `attach`
    layer_norm  every LayerNorm, of the backbone and elsewhere
    backbone    the rest of the item encoder's backbones
    head        everything else: the projection, the user encoder, item id embeddings
    """
    layer_norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    in_norms = {id(parameter) for module in layer_norms for parameter in module.parameters()}
    groups: dict[Group, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
    for name, parameter in model.named_parameters():
        groups[_group(name, id(parameter) in in_norms)].append((name, parameter))
    return groups


def train_only(model: nn.Module, trains: Callable[[Group, str], bool]) -> None:
    """Freeze every parameter but a task's and those of which `trains(group, name)` is true."""
    for group, members in parameter_groups(model).items():
        for name, parameter in members:
            parameter.requires_grad_(group == "task" or trains(group, name))


def _group(name: str, in_layer_norm: bool) -> Group:
    if name.startswith("task."):
        return "task"
    if ".adapter." in name:
        return "adapter"
    if in_layer_norm:
        return "layer_norm"
    return "backbone" if in_backbone(name) else "head"


def in_backbone(name: str) -> bool:
    """Is it the name of a parameter of a pretrained backbone?"""
    return name.startswith("item_encoder.") and ".backbone." in name
