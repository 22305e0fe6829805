"""K-Adapter: a small transformer next to the frozen one that reads the states of some of its layers.

Shape letters: n sequences, T positions, H width of the tower.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from transrec.adaptation.attach import Site, sites
from transrec.adaptation.bottleneck import BottleneckWidths
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.config import ConfigError
from transrec.nn.readout import Hidden
from transrec.nn.transformer import Block, attendable, initialise
from transrec.protocols import Adapter, Model

BLOCKS = 2  # transformer blocks of an adapter layer
UP_DOWN_STD = 2e-4


class Widths(BottleneckWidths):
    """Widths of the adapter layers by kind of tower."""

    item: PositiveInt = Field(192, description="width in the towers that read items")


class Heads(BottleneckWidths):
    """Attention heads of the adapter layers by kind of tower."""

    item: PositiveInt = Field(12, description="attention heads in the towers that read items")
    user: PositiveInt = Field(2, description="attention heads in the user encoder")


class KAdapterConfig(AdapterMethod):
    """Adapter layers read states of the frozen towers, and their output is combined with the last states.

    Paper: Wang et al., "K-Adapter: Infusing Knowledge into Pre-Trained Models with Adapters", Findings of ACL 2021, as
    in Fu et al., WSDM 2024: the adapters read the item encoder's first and last layer and the input of every block of
    the user encoder. The code of Fu et al. attends to padding and, in the user encoder, also to later items, and
    combines frozen and adapted states with randomly initialised weights (`variant: released`). Here, attention is
    masked, and training starts exactly at the frozen function.
    """

    rates = RateByModality(text=5e-6, image=1.5e-5)

    name: Literal["k_adapter"] = Field("k_adapter", description="adapter layers beside the frozen tower")
    layers: list[int] | None = Field(
        None, min_length=1, description="layers of the item towers whose output is read; null: first and last"
    )
    bottleneck: Widths = Field(Widths(), description="width of an adapter's transformer blocks")
    heads: Heads = Field(Heads(), description="attention heads of an adapter's transformer blocks")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of an adapter's transformer blocks")
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    def adapters(self, model: Model) -> Iterator[Placed]:
        for tower in self.towers:
            for site in sites(model, tower, "readout"):
                yield Placed(site, KAdapter(self, site.group, site.width, self._reads(site)))

    def rate_of(self, site: Site, parameter: str = "") -> float:
        if parameter.startswith("combine."):
            return (USER_COMBINATION if site.group == "user" else ITEM_COMBINATION).of(site.modality)
        return super().rate_of(site, parameter)

    def _reads(self, site: Site) -> list[int]:
        """Indices of the states that are read.

        Raises:
            ConfigError: a layer does not exist, or has another width.
        """
        widths: tuple[int, ...] = site.module.widths  # type: ignore[assignment]
        last = len(widths) - 1
        if site.group == "user":
            return list(range(last))
        alike = [read for read in range(1, last + 1) if widths[read] == site.width]  # patch merging changes the width
        chosen = [alike[0], last] if self.layers is None else [layer + 1 for layer in self.layers]
        odd = [read - 1 for read in chosen if read not in alike]
        if odd:
            raise ConfigError(
                f"`layers`: the {site.tower} tower cannot be read at layer {odd[0]}: choose layers 0..{last - 1} whose "
                f"output has the width of the last, {site.width}"
            )
        return chosen


# The reference counts these weights to the backbone and the head; these are its learning rates of the two.
ITEM_COMBINATION = RateByModality(text=5e-5, image=1e-4)
USER_COMBINATION = RateByModality(text=1e-4, image=2e-4)


class KAdapter(Adapter):
    """h_i = K_i(s_i + h_{i-1}), h_0 = 0; pool(W [s_last; h_m] + b), with W = [I; 0] and b = 0 at the start."""

    reads_pooled = False

    def __init__(self, config: KAdapterConfig, group: str, width: int, reads: list[int]):
        super().__init__()
        inner, heads = config.bottleneck.of(group), config.heads.of(group)
        if inner % heads:
            raise ConfigError(f"`heads.{group}` is {heads}, but must divide `bottleneck.{group}`, {inner}")
        self.reads = reads
        self.layers = nn.ModuleList(KAdapterLayer(width, inner, heads, config.dropout) for _ in reads)
        self.combine = nn.Linear(2 * width, width)
        self.masked, self.causal = config.variant == "canonical", group == "user"
        if config.variant == "canonical":
            nn.init.zeros_(self.combine.bias)
            with torch.no_grad():
                self.combine.weight.copy_(torch.eye(width, 2 * width))

    def forward(self, x: Hidden, y: Tensor) -> Tensor:
        allowed = self._allowed(x)
        h_nTH = torch.zeros_like(x.states[-1])
        for read, layer in zip(self.reads, self.layers, strict=True):
            h_nTH = layer(x.states[read] + h_nTH, allowed)
        tensor: Tensor = self.combine(torch.cat([y, x.pooled(h_nTH)], dim=-1))
        return tensor

    def _allowed(self, hidden: Hidden) -> Tensor | None:
        if not self.masked or hidden.mask is None:
            return None
        return attendable(hidden.mask, self.causal)


class KAdapterLayer(nn.Module):
    """z + W_up Blocks(W_down z + b_down) + b_up."""

    def __init__(self, width: int, inner: int, heads: int, dropout: float):
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.blocks = nn.ModuleList(Block(inner, heads, 4 * inner, dropout) for _ in range(BLOCKS))
        self.up = nn.Linear(inner, width)
        self.apply(initialise)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=UP_DOWN_STD)

    def forward(self, z: Tensor, allowed: Tensor | None) -> Tensor:
        inner = self.down(z)
        for block in self.blocks:
            inner = block(inner, allowed)
        tensor: Tensor = z + self.up(inner)
        return tensor
