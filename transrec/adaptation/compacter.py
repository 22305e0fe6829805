"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products with shared factors.

Shape letters: D width of a site, r width of the bottleneck, k terms of the sum and size of the shared factors.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.adaptation.attach import sites
from transrec.adaptation.bottleneck import BottleneckWidths, SubLayerEnd
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.config import ConfigError
from transrec.protocols import Adapter, Model


class CompacterConfig(AdapterMethod):
    """Adapters after the attention and after the FFN of each layer, with about 60,000 parameters on BERT-base.

    Paper: Karimi Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS 2021, as in Fu
    et al., WSDM 2024, whose code omits the skip connection around an adapter and so starts by discarding the layer's
    output (`variant: released`). Deviation: the shared factors have the same learning rate as the rest of an adapter
    (in the reference it is 1e-4, because of their parameter name).
    """

    rates = RateByModality(text=4e-3, image=3e-3)

    name: Literal["compacter"] = Field("compacter", description="bottlenecks made of Kronecker products")
    sites: list[SubLayerEnd] = Field(
        ["attention_output", "ffn_output"], min_length=1, description="ends of sub-layers that get an adapter"
    )
    layers: list[int] | None = Field(None, min_length=1, description="layers of the item towers; null: all")
    bottleneck: BottleneckWidths = Field(BottleneckWidths(), description="width of an adapter's hidden layer")
    terms: int = Field(4, ge=1, description="terms of each sum of Kronecker products; must divide all widths")
    init_std: float = Field(1e-4, gt=0, description="initial standard deviation of the shared factors")
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    def adapters(self, model: Model) -> Iterator[Placed]:
        shared = nn.Parameter(torch.empty(self.terms, self.terms, self.terms).normal_(std=self.init_std))
        for tower in self.towers:
            for name in self.sites:
                for site in sites(model, tower, name, self.layers):
                    width = self.bottleneck.of(site.group)
                    if site.width % self.terms or width % self.terms:
                        raise ConfigError(
                            f"`terms` is {self.terms}, but must divide both widths at {site}, {site.width} and {width}"
                        )
                    yield Placed(site, Compacter(site.width, width, shared, skip=self.variant == "canonical"))


class Compacter(Adapter):
    """y + H_up gelu(H_down y + b_down) + b_up with H = Σ_i C_i ⊗ (s_i t_iᵀ); near the identity at the start.

    All adapters of both towers share the parameter C. It is registered in each of them, so that ZeRO-3 gathers it for
    each; the model names and saves it once.
    """

    def __init__(self, width: int, bottleneck: int, shared: nn.Parameter, skip: bool):
        super().__init__()
        self.shared = shared
        self.down = KroneckerLinear(width, bottleneck, len(shared))
        self.up = KroneckerLinear(bottleneck, width, len(shared))
        self.skip = skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        change = self.up(F.gelu(self.down(y, self.shared), approximate="tanh"), self.shared)
        tensor: Tensor = y + change if self.skip else change
        return tensor


class KroneckerLinear(nn.Module):
    """y = x H + b; s and t are initialised Xavier-uniform with gain √2, as in the reference."""

    def __init__(self, inputs: int, outputs: int, terms: int):
        super().__init__()
        self.s = nn.Parameter(torch.empty(terms, inputs // terms, 1))
        self.t = nn.Parameter(torch.empty(terms, 1, outputs // terms))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in (self.s, self.t):
            for term in factor.data:
                nn.init.xavier_uniform_(term, gain=2**0.5)

    def forward(self, x: Tensor, shared_kkk: Tensor) -> Tensor:
        h_DD = torch.einsum("iab,ipq->apbq", shared_kkk, self.s @ self.t).reshape(x.shape[-1], -1)
        return x @ h_DD + self.bias
