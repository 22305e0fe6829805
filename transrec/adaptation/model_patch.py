"""Model patches: bottlenecks with their own residual connection, inserted into every layer of the user encoder.

Shape letters: D width of a site, t width of the bottleneck.
"""

from collections.abc import Callable, Iterator
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.adaptation.attach import sites, towers
from transrec.adaptation.bottleneck import Mode, SubLayerEnd
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.config import ConfigError
from transrec.nn.parameter_groups import Member
from transrec.protocols import Adapter, Model

_ENDS: dict[int, list[SubLayerEnd]] = {1: ["ffn_output"], 2: ["attention_output", "ffn_output"]}


class ModelPatchConfig(AdapterMethod):
    """Trains patches in the user encoder, its second LayerNorms and all modules outside both towers; freezes the rest.

    Paper: Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and Recommendation"
    (PeterRec), SIGIR 2020. With `reduction: 8`, two patches have less than a tenth of the parameters of a convolutional
    layer, as the paper claims; with `reduction: 4`, as in its code, they have 17 %. `cardinality` splits a bottleneck
    into parallel ones; their sum is one bottleneck and is computed as such, so only the rounding of widths differs. A
    parallel patch adds the sub-layer's input to its output, as in the released code, so training does not start near
    the pretrained function, unless `inner_skip` is false.
    """

    rates = RateByModality(text=1e-3, image=1e-3)

    name: Literal["model_patch"] = Field("model_patch", description="PeterRec's bottlenecks in the user encoder")
    towers: list[Literal["user"]] = Field(  # type: ignore[assignment]
        ["user"], min_length=1, description="towers that get patches: the user encoder only"
    )
    patches: Literal[1, 2] = Field(2, description="patches in each layer: after its second sub-layer, or after both")
    mode: Mode = Field("serial", description="serial: read the sub-layer's output; parallel: read its input")
    inner_skip: bool = Field(True, description="give a patch its own residual connection")
    reduction: int = Field(8, ge=1, description="width of the tower divided by the width of a patch's hidden layer")
    cardinality: int = Field(1, ge=1, description="number of parallel bottlenecks in a patch")
    init_std: float = Field(0.02, gt=0, description="standard deviation of a patch's initial weights")
    norms: Literal["second", "none"] = Field("second", description="LayerNorms of the user encoder to train")

    @model_validator(mode="after")
    def _keeps_the_sub_layer(self) -> Self:
        if self.mode == "serial" and not self.inner_skip:
            raise ValueError("without `inner_skip`, a serial patch replaces the sub-layer's output: set mode=parallel")
        return self

    def adapters(self, model: Model) -> Iterator[Placed]:
        for name in _ENDS[self.patches]:
            for site in sites(model, "user", name):
                width = self.cardinality * max(1, site.width // (self.reduction * self.cardinality))
                patch = ModelPatch(site.width, width, self.init_std, self.mode == "parallel", self.inner_skip)
                yield Placed(site, patch, parallel=self.mode == "parallel")

    def selection(self, model: Model) -> Callable[[Member], bool]:
        """The predicate that selects the parameters to train.

        Raises:
            ConfigError: the user encoder does not declare the second LayerNorms of its layers.
        """
        encoder = towers(model, ["user"])["user"].encoder
        if self.norms == "second" and not encoder.second_norms:
            raise ConfigError(f"`norms`: {type(encoder).__name__} has no second LayerNorms: set norms=none")
        norms = [encoder.get_submodule(path) for path in encoder.second_norms] if self.norms == "second" else []
        second = {parameter for norm in norms for parameter in norm.parameters()}

        def selected(member: Member) -> bool:
            outside = member.towers.isdisjoint({"item", "user"})
            return self.trains(member) or outside or member.parameter in second

        return selected


class ModelPatch(Adapter):
    """H(z) = z + MP(z), MP(z) = W_up gelu(W_down z + b_down) + b_up: H(y) (serial), or y + H(x) (parallel).

    y is the sub-layer's output, x its input. The parallel form without `inner_skip` is y + MP(x).
    """

    def __init__(self, width: int, bottleneck: int, init_std: float, parallel: bool, inner_skip: bool):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.parallel, self.inner_skip = parallel, inner_skip
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.parallel:
            return y + self.change(y)
        return y + x + self.change(x) if self.inner_skip else y + self.change(x)

    def change(self, z: Tensor) -> Tensor:
        tensor: Tensor = self.up(F.gelu(self.down(z), approximate="tanh"))
        return tensor
