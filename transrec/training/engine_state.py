"""The trained state of an engine: weights and Adam's state by parameter, whole and in fp32, for any ZeRO stage.

DeepSpeed stores this state differently for each stage: as parameters, as flat partitions of many parameters, or both,
in several precisions. This module reads and writes the state of each parameter by name; every rank must take part,
because the partitions are spread over all ranks.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from transrec.distributed.world import whole
from transrec.training.tables import tables_beside

WEIGHT = "weight"
KINDS = (WEIGHT, "exp_avg", "exp_avg_sq")
BYTES_PER_PARAMETER = 4 * len(KINDS)
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def trained(engine: Any) -> dict[str, nn.Parameter]:
    """The parameters that have a state, by name."""
    return {name: p for name, p in engine.module.named_parameters() if p.requires_grad}


def kinds(engine: Any, parameter: nn.Parameter) -> tuple[str, ...]:
    """The names of a parameter's tensors: its weight, and those of its optimizer state."""
    tables = tables_beside(engine)
    return (WEIGHT, *tables.kinds) if tables is not None and parameter in tables else KINDS


def read(engine: Any, parameter: nn.Parameter, kind: str) -> Tensor:
    """The tensor of one of a parameter's `kinds`; all of `KINDS` have the parameter's shape."""
    tables = tables_beside(engine)
    if tables is not None and parameter in tables:
        return parameter if kind == WEIGHT else tables.optimizer.state[parameter][kind]
    if not engine.zero_optimization():
        master = _master(engine, parameter)
        return master if kind == WEIGHT else engine.basic_optimizer.state[master][kind]
    tensor: Tensor = (
        safe_get_full_fp32_param(parameter) if kind == WEIGHT else safe_get_full_optimizer_state(parameter, kind)
    )
    return tensor


@torch.no_grad()
def write(engine: Any, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    """Set the tensor of one of a parameter's `kinds`; `value` is whole and the same on every rank."""
    tables = tables_beside(engine)
    if tables is not None and parameter in tables:
        read(engine, parameter, kind).copy_(value)
        return
    if kind == WEIGHT:  # the model's weights; the optimizer may have a copy in fp32 or in host memory
        with whole(parameter, modify=True):
            if parameter.numel():
                parameter.copy_(value)
    if not engine.zero_optimization():
        read(engine, parameter, kind).copy_(value)
    elif hasattr(parameter, "ds_id"):
        _set_partition(parameter, kind, value)
    elif kind == WEIGHT:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)


def _set_partition(parameter: Any, kind: str, value: Tensor) -> None:
    """Set this rank's part under ZeRO-3, padded: DeepSpeed's setter needs sizes divisible by the number of ranks."""
    size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
    own = value.new_zeros(size)
    part = value.flatten()[rank * size : (rank + 1) * size]
    own[: len(part)] = part
    if kind == WEIGHT:
        safe_set_local_fp32_param(parameter, own)
    else:
        safe_set_local_optimizer_state(parameter, own, kind)


def _master(engine: Any, parameter: nn.Parameter) -> Tensor:
    """The tensor that Adam updates without ZeRO: the fp32 copy in fp16 training, otherwise the parameter itself."""
    halves, masters = (getattr(engine.optimizer, groups, []) for groups in ("fp16_groups", "fp32_groups"))
    pairs = zip(chain(*halves), chain(*masters), strict=True)
    return next((master for half, master in pairs if half is parameter), parameter)


def _masters(engine: Any) -> list[Tensor]:
    """The tensors that Adam updates on this rank: parameters, or flat partitions of many."""
    if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3 passes them to Adam one by one
        found: list[Tensor] = engine.optimizer.fp32_partitioned_groups_flat
        return found
    return [master for group in engine.basic_optimizer.param_groups for master in group["params"]]


def complete(engine: Any) -> None:
    """Create the state that Adam creates in its first step, with a step whose learning rate and gradients are zero."""
    adam, masters = engine.basic_optimizer, _masters(engine)
    new = [master for master in masters if not adam.state[master]]
    if new:
        groups, gradients = adam.param_groups, [master.grad for master in new]
        for master in new:
            master.grad = torch.zeros_like(master)
        adam.param_groups = [groups[0] | {"params": new, "lr": 0.0}]
        adam.step()
        adam.param_groups = groups
        for master, gradient in zip(new, gradients, strict=True):
            master.grad = gradient
        _set_adam_step(adam, new, 0)
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # DeepSpeed links parameters to their state after the first group's step, when other groups have none yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def read_numbers(engine: Any) -> dict[str, Any]:
    """Adam's step count, which stays below the trainer's if fp16 steps are skipped, and the loss scale."""
    scaler = _loss_scaler(engine)
    return {
        "step": int(max(engine.basic_optimizer.state[master]["step"] for master in _masters(engine))),
        "loss_scaler": {name: getattr(scaler, name) for name in SCALER if hasattr(scaler, name)},
    }


def set_numbers(engine: Any, numbers: Mapping[str, Any]) -> None:
    """Set the numbers that `read_numbers` returned."""
    _set_adam_step(engine.basic_optimizer, _masters(engine), numbers["step"])
    tables = tables_beside(engine)
    if tables is not None:  # tables are updated whenever Adam updates the rest
        tables.set_step(numbers["step"])
    scaler = _loss_scaler(engine)
    for name, value in numbers["loss_scaler"].items():
        if hasattr(scaler, name):  # stage 0 counts no hysteresis
            setattr(scaler, name, value)


def _set_adam_step(adam: torch.optim.Optimizer, masters: list[Tensor], step: int) -> None:
    for master in masters:
        count = adam.state[master]["step"]
        adam.state[master]["step"] = count.fill_(step) if isinstance(count, Tensor) else step


def _loss_scaler(engine: Any) -> Any:
    """The object that holds the numbers of `SCALER`, or none of them if the loss is not scaled.

    With ZeRO, it is a separate object. Without ZeRO, it is an attribute of the fp16 optimizer, or that optimizer itself
    in DeepSpeed 0.17.
    """
    optimizer = engine.optimizer
    return getattr(optimizer, "loss_scaler", getattr(optimizer, "loss_scale_config", optimizer))
