"""The learning rates of a run in one line, because those of adapters may come from the adaptation method."""

from collections.abc import Mapping

from transrec.adaptation import AdaptationConfig, CombinedConfig
from transrec.adaptation.method import AdapterMethod
from transrec.training.optim import holds_adapters


def told(adaptation: AdaptationConfig, rates: Mapping[str, float]) -> str:
    """The peak rates of all trained groups, as in "learning rates: houlsby 1.5e-4, head 1e-4".

    Args:
        rates: peak rate of each trained group, by the name of its curve.
    """
    methods = adaptation.methods if isinstance(adaptation, CombinedConfig) else [adaptation]
    adapters = " and ".join(method.name for method in methods if isinstance(method, AdapterMethod))
    found: dict[str, list[str]] = {}
    for group, rate in rates.items():
        found.setdefault(adapters if holds_adapters(group) else group, []).append(_written(rate))
    return "learning rates: " + ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items())


def _written(rate: float) -> str:
    """The rate as text, such as 2e-3 or 1.5e-4; from 0.01 on, without an exponent."""
    if rate == 0 or rate >= 0.01:
        return f"{rate:g}"
    digits, exponent = f"{rate:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
