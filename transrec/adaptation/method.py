"""What every adaptation method is: where it puts adapters, what trains, how fast, and how methods are combined.

`adaptation:` takes one method, a mapping with a `name`, or a list of them.

Designs considered for that. Always a list: dotted overrides of the one method that nearly every run has
(`adaptation.bottleneck.item=8`) would have to name its place in the list. Either a mapping or a list, as it was
written: every reader of it asks which. Taken: always one method; a list is read as the method `combined`, which holds
them. And for what trains, named groups of parameters could not say "all biases" or "the LayerNorms of one tower": a
predicate over a parameter's group and name can, and its union is that of a combination.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from transrec.adaptation.attach import Modality, Site, Tower, attach
from transrec.adaptation.groups import Group, train_only
from transrec.config import Config


@dataclass(frozen=True)
class Rates:
    """The reference's learning rates of a method's adapters, by modality of the items."""

    text: float
    image: float

    def of(self, modality: Modality) -> float:
        return self.text if modality == "text" else self.image


class Method(Config):
    """One `apply` for all: adapters are put in, then everything is frozen but what `trains`."""

    name: str

    def attach(self, model: nn.Module) -> None:
        """Put the adapters in; most selections of parameters have none.

        Raises:
            ConfigError: a tower has no such site, or one that is taken.
        """

    def trains(self, group: Group, name: str) -> bool:
        """Does the parameter `name`, of `group`, train?"""
        raise NotImplementedError

    def selection(self, model: nn.Module) -> Callable[[Group, str], bool]:
        """`trains`, or what takes its place where only the model tells which names are meant."""
        return self.trains

    def apply(self, model: nn.Module) -> None:
        self.attach(model)
        train_only(model, self.selection(model))


class AdapterMethod(Method):
    """Adapters train, everything else is frozen but what is named."""

    rates: ClassVar[Rates]

    towers: list[Tower] = Field(["item", "user"], min_length=1)
    also_train: list[Literal["head", "layer_norm"]] = Field([])

    def trains(self, group: Group, name: str) -> bool:
        return group == "adapter" or group in self.also_train

    def put(self, site: Site, adapter: nn.Module, parallel: bool = False) -> None:
        learn_at(adapter, self.rates.of(site.modality))
        attach(site, adapter, parallel)


def learn_at(module: nn.Module, rate: float) -> None:
    """Let `module` learn at a rate of its own, unless the optimizer's configuration names one for all adapters."""
    module.learning_rate = rate  # type: ignore[assignment]  # not a parameter: it says how these learn


def trains_in(towers: Sequence[Tower], name: str) -> bool:
    """Is the parameter `name` of one of `towers`? The encoder of one modality alone is that modality's tower."""
    alone = ("item_encoder.backbone.", "item_encoder.projection.")
    prefixes: dict[Tower, tuple[str, ...]] = {
        "item": ("item_encoder.",),
        "user": ("user_encoder.",),
        "text": ("item_encoder.text.", *alone),
        "image": ("item_encoder.image.", *alone),
    }
    return any(name.startswith(prefixes[tower]) for tower in towers)
