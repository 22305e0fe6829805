"""Dropout and stochastic depth of a backbone: set by its configuration, and found again in the modules it has become.

The fields' names differ from family to family, and a configuration takes a field that it does not know without a word.
So the rates are read off the modules, wherever somebody relies on them.
"""

from collections.abc import Iterable
from numbers import Real

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from transrec.config import ConfigError
from transrec.item_encoders.families import family, family_of


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout to `rate`, and end stochastic depth and the jitter of positions."""
    kind = family(config.model_type)
    values = dict.fromkeys(kind.dropout, rate) | dict.fromkeys(kind.stochastic_depth, 0.0) | dict.fromkeys(kind.jitter)
    for field, value in values.items():
        setattr(config, field, value)


def check_dropout(backbone: PreTrainedModel, rate: float) -> None:
    """
    Raises:
        ConfigError: a dropout in the modules of `backbone` is not `rate`, or there is stochastic depth.
    """
    never = tuple(f"{path}." for path in family_of(backbone).drops_nothing)
    for name, found in rates(backbone).items():
        wanted = 0.0 if "drop_path" in name or name.startswith(never) else rate
        if found != wanted:
            raise ConfigError(
                f"`dropout`: {rate} was asked for, but {name} of this {backbone.config.model_type} backbone is "
                f"{found}, which its configuration does not change. Leave `dropout` out, or choose another backbone"
            )


def rates(module: nn.Module) -> dict[str, float]:
    """The rate of each part of `module` that drops values in training, zeros too, by path and attribute.

    A layer of dropout calls it `p`; attention and stochastic depth keep a number with `drop` in its name.
    """
    return {
        f"{path}.{name}".lstrip("."): float(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Real) and not isinstance(value, bool) and "drop" in (_kind(part) if name == "p" else name)
    }


def first_random(backbone: PreTrainedModel, modules: Iterable[nn.Module]) -> str | None:
    """A part of `modules` or a setting of `backbone` that makes passes of training differ, if there is one."""
    for module in modules:
        for name, rate in rates(module).items():
            if rate:
                return f"{name} is {rate}"
    for field in family_of(backbone).jitter:
        value = getattr(backbone.config, field)
        if value is not None:
            return f"{field} is {value}"
    return None


def _kind(module: nn.Module) -> str:
    return type(module).__name__.lower()
