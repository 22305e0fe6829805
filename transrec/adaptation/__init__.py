"""Adaptation: which parameters of a model are trained, and what is added to it.

`name:` chooses a method; a list combines methods.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from transrec.adaptation.bottleneck import HoulsbyConfig, PfeifferConfig
from transrec.adaptation.compacter import CompacterConfig
from transrec.adaptation.ia3 import IA3Config
from transrec.adaptation.k_adapter import KAdapterConfig
from transrec.adaptation.lora import LoRAConfig
from transrec.adaptation.method import Method, Rates
from transrec.adaptation.model_patch import ModelPatchConfig
from transrec.adaptation.prompt import PromptConfig
from transrec.adaptation.selective import (
    BitFitConfig,
    FrozenBackboneConfig,
    FullConfig,
    HeadOnlyConfig,
    LastLayersConfig,
    LayerNormConfig,
)
from transrec.adaptation.side_network import SideNetworkConfig
from transrec.nn.parameter_groups import Member
from transrec.protocols import Model

MethodConfig = Annotated[
    FullConfig
    | HeadOnlyConfig
    | FrozenBackboneConfig
    | LayerNormConfig
    | BitFitConfig
    | LastLayersConfig
    | HoulsbyConfig
    | PfeifferConfig
    | ModelPatchConfig
    | CompacterConfig
    | KAdapterConfig
    | LoRAConfig
    | IA3Config
    | PromptConfig
    | SideNetworkConfig,
    Field(discriminator="name"),
]


class CombinedConfig(Method):
    """Several methods at once: all adapters are attached, and a parameter is trained if any method trains it."""

    name: Literal["combined"] = Field("combined", description="several methods together")
    methods: list[MethodConfig] = Field(min_length=1, description="methods, attached in this order")

    def attach(self, model: Model) -> Rates:
        rates: Rates = {}
        for method in self.methods:
            rates |= method.attach(model)
        return rates

    def selection(self, model: Model) -> Callable[[Member], bool]:
        selections = [method.selection(model) for method in self.methods]
        return lambda member: any(selects(member) for selects in selections)

    def adapter_rates(self, modalities: tuple[str, ...]) -> dict[str, float]:
        found = [(method.name, method.adapter_rates(modalities)) for method in self.methods]
        return {f"{name}, {modality}": rate for name, rates in found for modality, rate in rates.items()}


def _combined(value: Any) -> Any:
    return {"name": "combined", "methods": value} if isinstance(value, list) else value


AdaptationConfig = Annotated[
    Annotated[MethodConfig | CombinedConfig, Field(discriminator="name")], BeforeValidator(_combined)
]
