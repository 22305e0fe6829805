"""Optimizer, parameter groups with their own learning rates, and schedules as pure functions of the step."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import nn

from transrec.adaptation.groups import Group, in_backbone, parameter_groups
from transrec.config import Config, ConfigError
from transrec.training.engine import cpu_adam

Beta = Annotated[float, Field(ge=0, lt=1)]


class LearningRates(Config):
    """Peak learning rate of each parameter group; the defaults are the reference's for text.

    Adapters without one learn at that of their method and of the modality of the items.
    """

    backbone: NonNegativeFloat = 5e-5
    head: NonNegativeFloat = 1e-4
    adapter: NonNegativeFloat | None = Field(None, description="null: what the adaptation method says")
    layer_norm: NonNegativeFloat | None = Field(None, description="trained LayerNorms; null: as the group they lie in")


class OptimizerConfig(Config):
    """AdamW; without weight decay it is the reference's Adam."""

    lr: LearningRates = LearningRates()
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps")


def schedule_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Share of the peak rate at `step` (0-based): linear warm-up, then constant, or linear or cosine to zero."""
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: Any, factor: float) -> dict[str, float]:
    """Scale every group's peak rate; returns the rate now in force by group name."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def build_optimizer(config: OptimizerConfig, model: nn.Module, offload: bool) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; matrices decay, vectors (biases, norms) do not.

    Raises:
        ConfigError: nothing is trainable.
    """
    own = _own_rates(model)
    buckets: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for group, members in parameter_groups(model).items():
        for name, parameter in members:
            if parameter.requires_grad:
                key = (*_rate_of(group, name, own.get(parameter), config.lr), parameter.ndim > 1)
                buckets.setdefault(key, []).append(parameter)
    if not buckets:
        raise ConfigError("nothing is trainable: choose another `adaptation`")
    groups: list[dict[str, Any]] = []
    for (name, lr, decays), parameters in buckets.items():
        decay = config.weight_decay if decays else 0.0
        groups.append({"params": parameters, "name": name, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    if offload:
        return cpu_adam(groups, config.betas)
    return torch.optim.AdamW(groups, betas=config.betas, fused=torch.cuda.is_available())


def _own_rates(model: nn.Module) -> dict[nn.Parameter, float]:
    """The rates that adapters brought along; of modules within each other, the inner one's."""
    bringing = [module for module in model.modules() if hasattr(module, "learning_rate")]
    return {parameter: module.learning_rate for module in bringing for parameter in module.parameters()}  # type: ignore[misc]


def _rate_of(group: Group, name: str, own: float | None, lr: LearningRates) -> tuple[str, float]:
    """The learning rate of a parameter, and what it is called in the curves."""
    if group == "adapter" and lr.adapter is None:
        if own is None:
            raise ConfigError("the adapters bring no learning rate along: set `optimizer.lr.adapter`")
        return f"adapter_{own:g}", own
    field = "head" if group == "task" else group
    if group == "layer_norm" and lr.layer_norm is None:
        field = "backbone" if in_backbone(name) else "head"
    return field, getattr(lr, field)
