"""The contract of adaptation methods: where adapters are put, which parameters train, and how fast.

`adaptation:` takes one method, a mapping with a `name`, or a list of them.

Designs considered for that. Always a list: dotted overrides of the one method that nearly every run has
(`adaptation.bottleneck.item=8`) would have to name its place in the list. Either a mapping or a list, as it was
written: every reader of it asks which. Taken: always one method; a list is read as the method `combined`, which holds
them. And for what trains, named groups of parameters could not say "all biases" or "the LayerNorms of one tower": a
predicate over a parameter's group and name can, and its union is that of a combination.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveInt
from torch import nn

from transrec.adaptation.attach import Site, attach
from transrec.config import Config, ConfigError
from transrec.nn.parameter_groups import Member, train_only
from transrec.protocols import Adapter, Model

Rates = dict[nn.Parameter, float]  # the peak learning rate of each parameter of an adapter


@dataclass(frozen=True)
class RateByModality:
    """The reference's learning rates of a method's adapters, by modality of the items."""

    text: float
    image: float

    def of(self, modality: str) -> float:
        return self.image if modality == "image" else self.text


class Sizes(Config):
    """A number for each group of towers: `item`, `user`, and any other group that the model has."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PositiveInt]

    item: PositiveInt = Field(description="of the towers that read items")
    user: PositiveInt = Field(description="of the user encoder")

    def of(self, group: str) -> int:
        """
        Raises:
            ConfigError: the group has no number.
        """
        sizes: dict[str, int] = self.model_dump()
        if group not in sizes:
            raise ConfigError(f"the adaptation sets sizes for {', '.join(sizes)}; add one for {group!r}")
        return sizes[group]


class Placed(NamedTuple):
    """An adapter and its place."""

    site: Site
    adapter: Adapter
    parallel: bool = False


class Method(Config):
    """One `apply` for all: adapters are put in, then everything is frozen but what `trains`."""

    name: str

    def attach(self, model: Model) -> Rates:
        """Put the adapters in; selections of parameters have none.

        Returns:
            The learning rate of each parameter that was added.

        Raises:
            ConfigError: a tower has no such site, or one that is taken.
        """
        return {}

    def trains(self, member: Member) -> bool:
        """Whether this parameter trains."""
        raise NotImplementedError

    def selection(self, model: Model) -> Callable[[Member], bool]:
        """`trains`, or what takes its place where only the model tells which parameters are meant."""
        return self.trains

    def adapter_rates(self, modalities: tuple[str, ...]) -> dict[str, float]:
        """Learning rates of adapters, by a name for them, as far as they follow from what the items are read by."""
        return {}

    def apply(self, model: Model) -> Rates:
        """Attach and freeze.

        Returns:
            The learning rate of each parameter that was added.
        """
        rates = self.attach(model)
        train_only(model, self.selection(model))
        return rates


class AdapterMethod(Method):
    """Adapters train, everything else is frozen but what is named."""

    rates: ClassVar[RateByModality]

    towers: list[str] = Field(
        ["item", "user"], min_length=1, description="towers of the model that get adapters: item, text, image, user"
    )
    also_train: list[Literal["head", "layer_norm"]] = Field(
        [], description="groups of parameters that train beside the adapters"
    )

    def trains(self, member: Member) -> bool:
        return member.group == "adapter" or member.group in self.also_train

    def adapters(self, model: Model) -> Iterator[Placed]:
        """The adapters one by one, each made when the one before it is in its place."""
        raise NotImplementedError

    def rate_of(self, site: Site, parameter: str = "") -> float:
        """The peak learning rate of an adapter at `site`, or of its parameter of this name."""
        return self.rates.of(site.modality)

    def adapter_rates(self, modalities: tuple[str, ...]) -> dict[str, float]:
        return {modality: self.rates.of(modality) for modality in modalities}

    def attach(self, model: Model) -> Rates:
        self._check_sizes(model)
        rates: Rates = {}
        for site, adapter, parallel in self.adapters(model):
            attach(site, adapter, parallel)
            rates |= {parameter: self.rate_of(site, name) for name, parameter in adapter.named_parameters()}
        return rates

    def _check_sizes(self, model: Model) -> None:
        """A size for a group that the model lacks is a slip of the pen."""
        groups = {"item", "user"} | {tower.group for tower in model.towers().values()}
        for key in type(self).model_fields:
            sizes = getattr(self, key)
            for group in sizes.model_extra or () if isinstance(sizes, Sizes) else ():
                if group not in groups:
                    raise ConfigError(
                        f"`{key}.{group}`: the model has no such towers, only {', '.join(sorted(groups))}"
                    )
