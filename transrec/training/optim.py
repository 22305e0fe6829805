"""Optimizer, parameter groups with their own learning rates, and schedules as pure functions of the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import nn

from transrec.config import Config, ConfigError
from transrec.nn.parameter_groups import Member, members, parameter_groups
from transrec.protocols import Model
from transrec.training.engine import cpu_adam
from transrec.training.row_wise import TableOptimizerConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


class LearningRates(Config):
    """Peak learning rate of each parameter group; the defaults are those of the reference implementation for text.

    Without a rate here, adapters use the rate of their method for the modality of the items.
    """

    backbone: NonNegativeFloat = Field(5e-5, description="pretrained modules")
    head: NonNegativeFloat = Field(1e-4, description="projection, user encoder, item ids, the head of a task")
    adapter: NonNegativeFloat | None = Field(None, description="adapters; null: the rate of the adaptation method")
    embedding: NonNegativeFloat | None = Field(
        None, description="tables of item ids and of a ranking model's features; null: head"
    )
    layer_norm: NonNegativeFloat | None = Field(
        None, description="trained LayerNorms; null: the rate of the group that contains them"
    )


class OptimizerConfig(Config):
    """AdamW. Without weight decay, it is the Adam optimizer of the reference implementation. Tables can have their own
    optimizer."""

    lr: LearningRates = Field(LearningRates(), description="peak learning rates")
    weight_decay: NonNegativeFloat = Field(0.0, description="weight decay of matrices; biases and norms do not decay")
    embedding: TableOptimizerConfig | None = Field(
        None,
        description="optimizer of tables that updates only the rows looked up, without decay; null: AdamW on all rows",
    )
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="decay rates of the averages of gradients and their squares"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="schedule of the rates after the warm-up"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps used for linear warm-up")


def schedule_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Share of the peak rate at `step` (0-based): linear warm-up, then constant, or linear or cosine decay to zero."""
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(groups: Sequence[dict[str, Any]], factor: float) -> dict[str, float]:
    """Set every group's rate to `factor` times its peak; returns the new rates by group name."""
    for group in groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["name"]: group["lr"] for group in groups}


def build_optimizer(
    config: OptimizerConfig, model: Model, rates: Mapping[nn.Parameter, float], offload: bool
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, without the tables if they have their own optimizer.

    Weight decay applies to matrices, but not to vectors (biases, norms) and tables of features.

    Args:
        rates: peak learning rates of adapter parameters, used if the configuration sets none.

    Raises:
        ConfigError: nothing is trainable.
    """
    buckets: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for group in parameter_groups(model).values():
        for member in group:
            parameter = member.parameter
            if parameter.requires_grad and not (config.embedding and member.table):
                decays = parameter.ndim > 1 and member.table != "feature"
                key = (*_rate_of(member, rates, config.lr), decays)
                buckets.setdefault(key, []).append(parameter)
    if not buckets:
        rest = " apart from the tables of `optimizer.embedding`" if config.embedding else ""
        raise ConfigError(f"nothing is trainable{rest}: choose another `adaptation`")
    groups: list[dict[str, Any]] = []
    for (name, lr, decays), parameters in buckets.items():
        decay = config.weight_decay if decays else 0.0
        groups.append({"params": parameters, "name": name, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    if offload:
        return cpu_adam(groups, config.betas)
    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


def build_table_optimizer(config: OptimizerConfig, model: Model) -> torch.optim.Optimizer | None:
    """The tables' own optimizer, for which their gradients become sparse; None: the configuration asks for none.

    Raises:
        ConfigError: the configuration asks for one, but no table is trained.
    """
    if config.embedding is None:
        return None
    tables = [m.parameter for m in members(model) if m.table and m.parameter.requires_grad]
    if not tables:
        raise ConfigError(
            "`optimizer.embedding` has no effect, because the run trains no table of ids or features: leave it out"
        )
    for module in model.modules():
        if isinstance(module, nn.Embedding) and any(module.weight is table for table in tables):
            module.sparse = True
    lr = config.lr.head if config.lr.embedding is None else config.lr.embedding
    return config.embedding.build([{"params": tables, "name": "embedding", "lr": lr, "peak_lr": lr}], config.betas)


def peak_rates(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The peak learning rate of every trained parameter group, by the name of its curve."""
    return {group["name"]: group["peak_lr"] for group in groups}


def holds_adapters(name: str) -> bool:
    """Whether a parameter group of this name consists of adapters."""
    return name.split("_")[0] == "adapter"


def _rate_of(member: Member, rates: Mapping[nn.Parameter, float], lr: LearningRates) -> tuple[str, float]:
    """The name of a parameter's learning rate in the curves, and its peak."""
    if member.group == "adapter" and lr.adapter is None:
        own = rates.get(member.parameter)
        if own is None:
            raise ConfigError("the adapters have no default learning rate: set `optimizer.lr.adapter`")
        return f"adapter_{own:g}", own
    if member.table and member.group == "head" and lr.embedding is not None:
        return "embedding", lr.embedding
    field = "head" if member.group == "task" else member.group
    if member.group == "layer_norm" and lr.layer_norm is None:
        field = "backbone" if member.pretrained else "head"
    return field, getattr(lr, field)
