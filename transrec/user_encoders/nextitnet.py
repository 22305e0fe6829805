"""NextItNet: dilated convolutions over a user's items, causal or bidirectional.

Designs considered for a convolution: `nn.Conv1d` needs channels before positions, so each convolution transposes twice,
and hides what adapters need (its input at a position, a matrix to add a low-rank update to). Chosen: one linear map of
the concatenated vectors under the kernel. It is as fast, takes memory for `kernel` copies of its input, and adapters
and their merging work as on any other linear map.

Shape letters: B users, L positions, D width, k width of the kernel.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from transrec.config import Config
from transrec.nn.readout import Hidden, Readout
from transrec.protocols import UserEncoder

LAYER_NORM_EPS = 1e-8
INIT_STD = 0.02

_SITES = {"conv1_input": "conv1", "conv1": "conv1.linear", "conv2_input": "conv2", "conv2": "conv2.linear"}


class NextItNetConfig(Config):
    """Configuration of `NextItNet`."""

    name: Literal["nextitnet"] = Field("nextitnet", description="dilated convolutions")
    dilations: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 4] * 4, min_length=1, description="dilation of each block's first convolution; the second has twice that"
    )
    kernel: int = Field(3, ge=2, description="width of a convolution's kernel in positions")
    causal: bool = Field(True, description="a position reads only earlier items; false: also later ones")

    def build(self, width: int, max_length: int) -> "NextItNet":
        return NextItNet(self, width)


class NextItNet(UserEncoder):
    """x, then per block: x = x + ReLU(LN(DC_2l(ReLU(LN(DC_l(x)))))).

    Paper: Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019, as the
    backbone of PeterRec (Yuan et al., SIGIR 2020); `causal: false` is its bidirectional encoder. As in PeterRec, there
    is no dropout and no position embedding; with the default dilations, a state reads 121 items. Deviation: padding is
    zero at every layer, so that a user's states do not depend on the window's length; in the released code, padding is
    a token with its own vector.
    """

    def __init__(self, config: NextItNetConfig, width: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, width, dilation) for dilation in config.dilations)
        self.num_layers = len(self.blocks)
        self.readout = Readout([width] * (self.num_layers + 1))
        self.hidden_size = width
        self.site_paths = {
            site: [f"blocks.{layer}.{path}" for layer in range(self.num_layers)] for site, path in _SITES.items()
        } | {"readout": ["readout"]}
        self.layer_paths = [
            (f"blocks.{layer}.conv{half}", f"blocks.{layer}.norm{half}")
            for layer in range(self.num_layers)
            for half in (1, 2)
        ]
        self.second_norms = [f"blocks.{layer}.norm2" for layer in range(self.num_layers)]
        self.checkpointing = False

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """State of each item (B, L, D).

        Args:
            x: (B, L, D) item vectors.
            mask: (B, L) False at padding; left-padded.
        """
        mask_BL1 = mask.unsqueeze(-1)
        x = x * mask_BL1
        inputs = []
        for block in self.blocks:
            if self.readout.reads_all:
                inputs.append(x)
            if self.checkpointing and self.training:
                x = checkpoint(block, x, mask_BL1, use_reentrant=False)
            else:
                x = block(x, mask_BL1)
        tensor: Tensor = self.readout(Hidden([*inputs, x], mask))
        return tensor

    def enable_gradient_checkpointing(self) -> None:
        self.checkpointing = True


class Block(nn.Module):
    """Two convolutions, the second with twice the dilation, and a residual connection around both."""

    def __init__(self, config: NextItNetConfig, width: int, dilation: int):
        super().__init__()
        self.conv1 = DilatedConvolution(width, config.kernel, dilation, config.causal)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.conv2 = DilatedConvolution(width, config.kernel, 2 * dilation, config.causal)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, D), zero at padding.

        Args:
            x: (B, L, D), zero at padding.
            mask: (B, L, 1).
        """
        h = F.relu(self.norm1(self.conv1(x))) * mask
        return x + F.relu(self.norm2(self.conv2(h))) * mask


class DilatedConvolution(nn.Module):
    """y_t = Σ_i W_i x_{t + (i - c) dilation} + b; c is the last tap (causal) or the middle one; x is 0 outside."""

    def __init__(self, width: int, kernel: int, dilation: int, causal: bool):
        super().__init__()
        self.linear = nn.Linear(kernel * width, width)
        self.kernel, self.dilation = kernel, dilation
        self.before = (kernel - 1 if causal else (kernel - 1) // 2) * dilation
        self.after = (kernel - 1) * dilation - self.before
        nn.init.trunc_normal_(self.linear.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        padded = F.pad(x, (0, 0, self.before, self.after))
        starts = range(0, self.kernel * self.dilation, self.dilation)
        tensor: Tensor = self.linear(torch.cat([padded[:, start : start + length] for start in starts], dim=-1))
        return tensor
