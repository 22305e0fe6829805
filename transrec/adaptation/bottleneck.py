"""Bottleneck adapters: a narrow two-layer network next to the frozen weights.

Shape letters: D width of a site, r width of the bottleneck.
"""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.adaptation.attach import sites
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality, Sizes
from transrec.protocols import Adapter, Model

SubLayerEnd = Literal["attention_output", "ffn_output", "conv1", "conv2"]
Mode = Literal["serial", "parallel"]


class BottleneckWidths(Sizes):
    """Widths of bottlenecks by kind of tower."""

    item: PositiveInt = Field(64, description="width in the towers that read items")
    user: PositiveInt = Field(16, description="width in the user encoder")


class BottleneckMethod(AdapterMethod):
    """Adapters at the ends of sub-layers."""

    sites: list[SubLayerEnd] = Field(min_length=1, description="ends of sub-layers that get an adapter")
    layers: list[int] | None = Field(None, min_length=1, description="layers of the item towers; null: all")
    mode: Mode = Field("serial", description="serial: read the sub-layer's output; parallel: read its input")
    bottleneck: BottleneckWidths = Field(BottleneckWidths(), description="width of an adapter's hidden layer")
    init_std: float = Field(0.01, ge=0, description="standard deviation of an adapter's initial weights")

    def adapters(self, model: Model) -> Iterator[Placed]:
        parallel = self.mode == "parallel"
        for tower in self.towers:
            for name in self.sites:
                for site in sites(model, tower, name, self.layers):
                    yield Placed(site, self.adapter(site.width, self.bottleneck.of(site.group)), parallel)

    def adapter(self, width: int, bottleneck: int) -> "Bottleneck":
        return Bottleneck(width, bottleneck, self.init_std, self.mode == "parallel")


class HoulsbyConfig(BottleneckMethod):
    """Adapters after the attention and after the FFN of each layer; everything else is frozen.

    Paper: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, in both towers as in Fu
    et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024. Deviations: an
    adapter acts before the sub-layer's output dropout (in the reference, after it; without dropout, both are the
    same); the parallel form adds the sub-layer's input once. The code of Fu et al. adds it twice, so training does not
    start near the pretrained function (`variant: released`).
    """

    rates = RateByModality(text=1.5e-4, image=4e-4)

    name: Literal["houlsby"] = Field(
        "houlsby", description="bottlenecks after the attention and after the feed-forward layer"
    )
    sites: list[SubLayerEnd] = Field(
        ["attention_output", "ffn_output"], min_length=1, description="ends of sub-layers that get an adapter"
    )
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if self.variant == "released" and self.mode == "serial":
            raise ValueError("the serial form is the same in both variants: set mode=parallel, or remove `variant`")
        return self

    def adapter(self, width: int, bottleneck: int) -> "Bottleneck":
        if self.variant == "released":
            return DoubledResidual(width, bottleneck, self.init_std, parallel=True)
        return super().adapter(width, bottleneck)


class PfeifferConfig(BottleneckMethod):
    """Adapters after the FFN of each layer only.

    Paper: Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021.
    The method that Fu et al. benchmark under this name adapts after the attention only: `sites: [attention_output]`.
    Their code also has a version of the paper's form (`variant: released`, for post-LN towers, without regard to
    `sites` and `mode`): it wraps the frozen LayerNorm after the FFN and adds a LayerNorm of its own, so training does
    not start near the pretrained function.
    """

    rates = RateByModality(text=1e-4, image=4e-4)

    name: Literal["pfeiffer"] = Field("pfeiffer", description="bottlenecks after the feed-forward layer")
    sites: list[SubLayerEnd] = Field(["ffn_output"], min_length=1, description="ends of sub-layers that get an adapter")
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    def adapters(self, model: Model) -> Iterator[Placed]:
        if self.variant == "canonical":
            yield from super().adapters(model)
            return
        for tower in self.towers:
            for site in sites(model, tower, "ffn_norm", self.layers):
                width = self.bottleneck.of(site.group)
                yield Placed(site, NormedBottleneck(site.width, width, self.init_std))


class Bottleneck(Adapter):
    """y + W_up ReLU(W_down z + b_down) + b_up, where z is y (serial) or the sub-layer's input x (parallel).

    Weights ~ N(0, init_std²), biases 0. An adapter starts near the identity, and at exactly the identity for
    init_std = 0 (but then, like any network of zeros, it learns only its output bias).

    Args:
        out: width of the output; None: the width of the input.
    """

    def __init__(self, width: int, bottleneck: int, init_std: float, parallel: bool = False, out: int | None = None):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width if out is None else out)
        self.parallel = parallel
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.change(x if self.parallel else y)

    def change(self, z: Tensor) -> Tensor:
        tensor: Tensor = self.up(F.relu(self.down(z)))
        return tensor


class DoubledResidual(Bottleneck):
    """y + x + W_up ReLU(W_down x + b_down) + b_up: the layer then adds its residual x once more."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) + x


class NormedBottleneck(Bottleneck):
    """LN(W_up ReLU(W_down y + b_down) + b_up + x), where y is the frozen LayerNorm of the residual sum x."""

    def __init__(self, width: int, bottleneck: int, init_std: float):
        super().__init__(width, bottleneck, init_std)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        tensor: Tensor = self.norm(x + self.change(y))
        return tensor
