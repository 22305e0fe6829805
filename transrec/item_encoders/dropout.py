"""Dropout and stochastic depth of a backbone: set in its configuration, checked in its modules.

The field names differ between families, and a configuration silently accepts unknown fields. Code that relies on the
rates therefore reads them from the modules.
"""

from collections.abc import Iterable
from numbers import Real

import transformers
from torch import nn

from transrec.config import ConfigError
from transrec.item_encoders.families import family, family_of


def set_dropout(config: "transformers.PretrainedConfig", rate: float) -> None:
    """Set every dropout to `rate`, and disable stochastic depth and position jitter."""
    kind = family(config.model_type)
    values = dict.fromkeys(kind.dropout, rate) | dict.fromkeys(kind.stochastic_depth, 0.0) | dict.fromkeys(kind.jitter)
    for field, value in values.items():
        setattr(config, field, value)


def check_dropout(backbone: "transformers.PreTrainedModel", rate: float) -> None:
    """Check the dropout rates in the modules of `backbone`.

    Raises:
        ConfigError: a dropout rate is not `rate`, or there is stochastic depth.
    """
    never = tuple(f"{path}." for path in family_of(backbone).drops_nothing)
    for name, found in rates(backbone).items():
        wanted = 0.0 if "drop_path" in name or name.startswith(never) else rate
        if found != wanted:
            raise ConfigError(
                f"`dropout` is {rate}, but the rate of {name} in this {backbone.config.model_type} backbone is {found} "
                "and cannot be changed by its configuration: remove `dropout`, or choose another backbone"
            )


def rates(module: nn.Module) -> dict[str, float]:
    """Dropout rates in `module`, zeros included, by path and attribute.

    A dropout layer stores its rate as `p`; attention and stochastic depth store a number with `drop` in its name.
    """
    return {
        f"{path}.{name}".lstrip("."): float(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Real) and not isinstance(value, bool) and "drop" in (_kind(part) if name == "p" else name)
    }


def first_random(backbone: "transformers.PreTrainedModel", modules: Iterable[nn.Module]) -> str | None:
    """First dropout rate of `modules` or jitter setting of `backbone` that makes training passes random, if any."""
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
