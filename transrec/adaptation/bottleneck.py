"""Bottleneck adapters: a narrow two-layer network beside the frozen weights.

Shape letters: D width of a site, r width of the bottleneck.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.adaptation.attach import Tower, attach, sites
from transrec.adaptation.groups import Group, train_only
from transrec.config import Config

SubLayerEnd = Literal["attention_output", "ffn_output"]


class BottleneckWidths(Config):
    item: int = Field(64, ge=1)
    user: int = Field(16, ge=1)


class HoulsbyConfig(Config):
    """Adapters after the attention and after the FFN of each layer; everything else is frozen.

    Paper: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, in both towers as in Fu
    et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024. Deviations: an
    adapter acts before the sub-layer's output dropout (the reference: after it; alike without dropout); the
    parallel form adds the sub-layer's input once (the reference: twice, so it does not start near the
    pretrained function).
    """

    name: Literal["houlsby"] = "houlsby"
    towers: list[Tower] = Field(["item", "user"], min_length=1)
    sites: list[SubLayerEnd] = Field(["attention_output", "ffn_output"], min_length=1)
    layers: list[int] | None = Field(None, min_length=1)  # of the item towers; None: all
    mode: Literal["serial", "parallel"] = "serial"
    bottleneck: BottleneckWidths = BottleneckWidths()
    init_std: float = Field(0.01, ge=0)
    also_train: list[Literal["head", "layer_norm"]] = Field([])

    @property
    def trainable_groups(self) -> set[Group]:
        return {"adapter", *self.also_train}

    def apply(self, model: nn.Module) -> None:
        parallel = self.mode == "parallel"
        for tower in self.towers:
            width = self.bottleneck.user if tower == "user" else self.bottleneck.item
            for name in self.sites:
                for site in sites(model, tower, name, self.layers if tower != "user" else None):
                    attach(site, Bottleneck(site.width, width, self.init_std, parallel), parallel)
        train_only(model, self.trainable_groups)


class Bottleneck(nn.Module):
    """y + W_up ReLU(W_down z + b_down) + b_up, where z is y (serial) or the sub-layer's input x (parallel).

    Weights ~ N(0, init_std²), biases 0: near the identity at the start, and exactly so for init_std = 0
    (which, like any network of zeros, then learns only its output bias).
    """

    def __init__(self, width: int, bottleneck: int, init_std: float, parallel: bool):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.parallel = parallel
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.up(F.relu(self.down(x if self.parallel else y)))
