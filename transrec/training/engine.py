"""Builds the DeepSpeed configuration from typed fields, with every relevant default written out."""

import difflib
from collections.abc import Iterator, KeysView
from typing import Any, Literal

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.op_builder import CPUAdamBuilder
from deepspeed.runtime.config import DeepSpeedConfig
from pydantic import Field, ValidationError
from torch import nn

from transrec.config import Config, ConfigError
from transrec.distributed.extension_locks import clear_stale_lock


class ZeroConfig(Config):
    """Partitioning of model state over ranks (ZeRO, Rajbhandari et al. 2020)."""

    stage: Literal[0, 1, 2, 3] = Field(0, description="0 none, 1 optimizer state, 2 + gradients, 3 + parameters")
    offload_optimizer: bool = Field(False, description="keep optimizer state in host memory")
    offload_parameters: bool = Field(False, description="keep parameters in host memory between uses (stage 3)")


Precision = Literal["fp32", "bf16", "bf16_weights", "fp16"]


def deepspeed_config(
    zero: ZeroConfig,
    precision: Precision,
    micro_batch_size: int,
    accumulation: int,
    clipping: float,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The complete dictionary for `deepspeed.initialize`.

    bf16 means autocast: weights and optimizer state stay fp32, and matrix products run in 16 bits. bf16_weights and
    fp16 are DeepSpeed's own modes: 16-bit weights and gradients over fp32 master weights. fp16 has a dynamic loss
    scale, which autocast lacks under ZeRO (its scaler neither backs off nor is saved there). In these two modes, an
    export holds the 16-bit values.

    Raises:
        ConfigError: `extra` has a key that the typed fields set, the stage does not support the offload, or the device
            does not support fp16.
    """
    if zero.offload_optimizer and zero.stage == 0:
        raise ConfigError("`zero.offload_optimizer` needs `zero.stage` 1, 2 or 3")
    if zero.offload_parameters and zero.stage != 3:
        raise ConfigError("`zero.offload_parameters` needs `zero.stage=3`")
    zero_optimization: dict[str, Any] = {"stage": zero.stage}
    if zero.offload_optimizer:
        zero_optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if zero.offload_parameters:
        zero_optimization["offload_param"] = {"device": "cpu", "pin_memory": True}
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clipping,  # DeepSpeed clips at 1.0 if this is missing
        "zero_optimization": zero_optimization,
        "zero_allow_untested_optimizer": False,
        "steps_per_print": 10**12,  # we show progress ourselves
        "wall_clock_breakdown": False,
    }
    if precision == "bf16":
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if precision == "bf16_weights":
        ours["bf16"] = {"enabled": True}
    if precision == "fp16":
        if not get_accelerator().is_fp16_supported():
            raise ConfigError("`train.precision=fp16` is not supported on this device: use bf16 or fp32")
        ours["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
    return ours | _checked(extra, zero_optimization)


def initialize(model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """The DeepSpeed engine around `model`.

    Raises:
        TypeError: a parameter has no dimension, which DeepSpeed cannot broadcast.
    """
    scalars = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if scalars:
        raise TypeError(f"DeepSpeed cannot train parameters without a dimension: give {scalars[0]} the shape (1,)")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine


def cpu_adam(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW with its state in host memory; DeepSpeed compiles it at first use."""
    clear_stale_lock(CPUAdamBuilder.NAME)
    found: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, betas=betas, adamw_mode=True)
    return found


_SET_BY = {
    "train_micro_batch_size_per_gpu": "train.batch_size and train.accumulation",
    "train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_clipping": "train.clipping",
    "bf16": "train.precision",
    "bfloat16": "train.precision",  # an older name of bf16
    "amp": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "zero_allow_untested_optimizer": "optimizer",
    "steps_per_print": "train.log_every",
    "wall_clock_breakdown": "transrec",
    "zero_optimization.stage": "zero.stage",
    "zero_optimization.offload_optimizer": "zero.offload_optimizer",
    "zero_optimization.offload_param": "zero.offload_parameters",
}


def check_extra(extra: dict[str, Any], stage: int) -> None:
    """Check additional settings against DeepSpeed's own schema, without a process group.

    DeepSpeed has no list of its top-level keys and silently ignores unknown ones. This check therefore lets it
    read a dictionary that records which keys are looked up; all other keys are unknown.

    Raises:
        ConfigError: a key is unknown or set by a typed field, or DeepSpeed refuses a value.
    """
    ours = _checked(extra, {"stage": stage})
    for key in extra:  # one at a time, so that an error names its key
        _read_by_deepspeed({key: ours[key]}, f"deepspeed.{key}")
    _read_by_deepspeed(ours, "deepspeed")


def _read_by_deepspeed(settings: dict[str, Any], where: str) -> None:
    known = _Recorder(settings | {"train_micro_batch_size_per_gpu": 1})
    try:
        DeepSpeedConfig(known)
    except ValidationError as error:
        fault = error.errors()[0]
        inside = ".".join(str(part) for part in fault["loc"] if f"deepspeed.{part}" != where)
        problem = "DeepSpeed has no such key" if fault["type"] == "extra_forbidden" else fault["msg"]
        raise ConfigError(f"`{where}{'.' if inside else ''}{inside}`: {problem}") from None
    except Exception as error:  # DeepSpeed raises exceptions of any class
        raise ConfigError(f"`{where}`: DeepSpeed refuses it ({' '.join(str(error).split())})") from None
    for key, near in known.never_read():
        hint = f"; did you mean `deepspeed.{near}`?" if near else ""
        raise ConfigError(f"`deepspeed.{key}`: DeepSpeed has no such key{hint}")


class _Recorder(dict[str, Any]):
    """A dictionary that remembers which keys were looked up, as do the dictionaries nested in it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({key: _Recorder(v) if isinstance(v, dict) else v for key, v in values.items()})
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:  # makes `f(**self)` look up every key
        return super().__iter__()

    def keys(self) -> Any:  # readers ask `key in values.keys()`
        return _Keys(self)

    def never_read(self) -> Iterator[tuple[str, str | None]]:
        """Dotted keys that were not looked up, each with the most similar one that was."""
        for key, value in self.items():
            if key not in self.read:
                yield key, next(iter(difflib.get_close_matches(key, self.read, n=1)), None)
            elif isinstance(value, _Recorder) and value.read:  # otherwise pydantic has read it as a whole
                yield from ((f"{key}.{inner}", near and f"{key}.{near}") for inner, near in value.never_read())


class _Keys(KeysView[str]):
    def __init__(self, owner: _Recorder) -> None:
        super().__init__(owner)
        self._owner = owner

    def __contains__(self, key: object) -> bool:
        return key in self._owner

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)


def _checked(extra: dict[str, Any], zero_optimization: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(extra.get("zero_optimization", {}), dict):
        raise ConfigError("`deepspeed.zero_optimization` must be a mapping; set the stage with `zero.stage`")
    nested = {f"zero_optimization.{key}": value for key, value in extra.get("zero_optimization", {}).items()}
    for key in (*extra, *nested):
        if key in _SET_BY:
            raise ConfigError(f"`deepspeed.{key}` is set by `{_SET_BY[key]}`: remove it from `deepspeed`")
    return extra | {"zero_optimization": zero_optimization | extra.get("zero_optimization", {})}
