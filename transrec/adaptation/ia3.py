"""(IA)³: channel-wise scaling of a layer's keys and values and of its FFN's hidden units."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.adaptation.attach import sites
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.protocols import Adapter, Model


class IA3Config(AdapterMethod):
    """Keys, values and the hidden layer of the FFN are scaled by learned vectors that start at 1.

    Paper: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    NeurIPS 2022. The learning rate is our own choice and was not tuned; the reference does not include this method.
    """

    rates = RateByModality(text=3e-3, image=3e-3)

    name: Literal["ia3"] = Field("ia3", description="learned scales of keys, values and hidden units")
    sites: list[Literal["key", "value", "ffn_hidden"]] = Field(
        ["key", "value", "ffn_hidden"], min_length=1, description="outputs that are scaled"
    )
    layers: list[int] | None = Field(None, min_length=1, description="layers of the item towers; null: all")

    def adapters(self, model: Model) -> Iterator[Placed]:
        for tower in self.towers:
            for name in self.sites:
                for site in sites(model, tower, name, self.layers):
                    yield Placed(site, Scale(site.width))


class Scale(Adapter):
    """l ⊙ y."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * y
