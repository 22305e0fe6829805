"""The contract of adaptation methods: where adapters are attached, and which parameters are trained at which rates.

`adaptation:` takes one method, a mapping with a `name`, or a list of them.

Designs considered for this setting. Always a list: dotted overrides of the one method that nearly every run has
(`adaptation.bottleneck.item=8`) would need its index in the list. A mapping or a list, kept as written: all code that
reads the setting has to distinguish the two. Chosen: always one method; a list is read as the method `combined`, which
holds the methods of the list. The trained parameters are selected by a predicate over a parameter's group and name:
named groups cannot express "all biases" or "the LayerNorms of one tower", and a combination is the union of its
predicates.
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

Rates = dict[nn.Parameter, float]  # peak learning rate of each adapter parameter


@dataclass(frozen=True)
class RateByModality:
    """The reference's learning rates of a method's adapters, by modality of the items."""

    text: float
    image: float

    def of(self, modality: str) -> float:
        return self.image if modality == "image" else self.text


class Sizes(Config):
    """A size for each group of towers: `item`, `user`, and any other group of the model."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PositiveInt]

    item: PositiveInt = Field(description="size in the towers that read items")
    user: PositiveInt = Field(description="size in the user encoder")

    def of(self, group: str) -> int:
        """Get the size of a group.

        Raises:
            ConfigError: the group has no size.
        """
        sizes: dict[str, int] = self.model_dump()
        if group not in sizes:
            raise ConfigError(f"the adaptation sets sizes for {', '.join(sizes)}, but not for {group!r}: add that size")
        return sizes[group]


class Placed(NamedTuple):
    """An adapter and its site."""

    site: Site
    adapter: Adapter
    parallel: bool = False


class Method(Config):
    """Base of all methods: `apply` attaches the adapters, then freezes every parameter that is not trained."""

    name: str

    def attach(self, model: Model) -> Rates:
        """Attach the adapters; methods that only select parameters have none.

        Returns:
            The learning rate of each parameter that was added.

        Raises:
            ConfigError: a tower has no such site, or the site already has an adapter.
        """
        return {}

    def trains(self, member: Member) -> bool:
        """Whether this parameter is trained."""
        raise NotImplementedError

    def selection(self, model: Model) -> Callable[[Member], bool]:
        """The predicate that selects the parameters to train; overridden where it depends on the model."""
        return self.trains

    def adapter_rates(self, modalities: tuple[str, ...]) -> dict[str, float]:
        """Learning rates of the adapters by label, if they depend on nothing but the items' modalities."""
        return {}

    def apply(self, model: Model) -> Rates:
        """Attach the adapters and freeze every parameter that is not trained.

        Returns:
            The learning rate of each parameter that was added.
        """
        rates = self.attach(model)
        train_only(model, self.selection(model))
        return rates


class AdapterMethod(Method):
    """The adapters and the groups in `also_train` are trained; everything else is frozen."""

    rates: ClassVar[RateByModality]

    towers: list[str] = Field(
        ["item", "user"], min_length=1, description="towers of the model that get adapters: item, text, image, user"
    )
    also_train: list[Literal["head", "layer_norm"]] = Field(
        [], description="parameter groups trained in addition to the adapters"
    )

    def trains(self, member: Member) -> bool:
        return member.group == "adapter" or member.group in self.also_train

    def adapters(self, model: Model) -> Iterator[Placed]:
        """Yield the adapters, each created only after the previous one is attached."""
        raise NotImplementedError

    def rate_of(self, site: Site, parameter: str = "") -> float:
        """Peak learning rate of an adapter at `site`, or of its parameter named `parameter`."""
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
        """Reject a size for a group that the model lacks, which is probably a typo."""
        groups = {"item", "user"} | {tower.group for tower in model.towers().values()}
        for key in type(self).model_fields:
            sizes = getattr(self, key)
            for group in sizes.model_extra or () if isinstance(sizes, Sizes) else ():
                if group not in groups:
                    raise ConfigError(
                        f"`{key}.{group}`: no such group of towers: choose among {', '.join(sorted(groups))}"
                    )
