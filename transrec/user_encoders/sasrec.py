"""SASRec: a causal transformer over a user's items.

Shape letters: B users, L positions, D width, h heads, d width of a head.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transrec.config import Config, ConfigError
from transrec.nn.readout import Hidden, Readout
from transrec.nn.transformer import LAYER_NORM_EPS, Block, attendable, initialise
from transrec.protocols import UserEncoder

_SITES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_input": "attention",
    "attention_output": "attention.output",
    "ffn_input": "ffn",
    "ffn_hidden": "ffn.activation",
    "ffn_output": "ffn.output",
    "ffn_norm": "ffn_norm",
}


class TransformerSettings(Config):
    """Settings shared by the transformer user encoders."""

    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads per block; must divide the width")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the input, the attention and both sub-layers")
    ffn_multiplier: int = Field(
        4, ge=1, description="width of the feed-forward layer as a multiple of the model's width"
    )

    causal: ClassVar[bool]
    activation: ClassVar[type[nn.Module]]


class SASRecConfig(TransformerSettings):
    """Configuration of `SASRec`."""

    name: Literal["sasrec"] = Field("sasrec", description="a causal transformer")

    causal: ClassVar[bool] = True
    activation: ClassVar[type[nn.Module]] = nn.ReLU

    def build(self, width: int, max_length: int) -> "SASRec":
        return SASRec(self, width, max_length)


class SASRec(UserEncoder):
    """x = Dropout(LN(e + P)), then per block: a = LN(x + Dropout(MHA(x))); x = LN(a + Dropout(FFN(a))).

    Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, in the post-LN form of
    TransRec (Fu et al., WSDM 2024, both its SASRec and its CPC). Positions are absolute in the left-padded
    window, so the newest item is always at the last position. Deviation: a padded query attends to itself instead
    of to all keys; neither affects a valid position.
    """

    def __init__(self, config: TransformerSettings, width: int, max_length: int):
        super().__init__()
        if width % config.heads:
            raise ConfigError(
                f"`model.user_encoder.heads` is {config.heads}, but it must divide `model.width` ({width})"
            )
        self.positions = nn.Embedding(max_length, width)
        self.input_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.ffn_multiplier * width, config.dropout, config.activation)
            for _ in range(config.layers)
        )
        self.num_layers = config.layers
        self.readout = Readout([width] * (config.layers + 1))
        self.hidden_size = width
        self.site_paths = {
            site: [f"blocks.{layer}.{path}" for layer in range(config.layers)] for site, path in _SITES.items()
        } | {"readout": ["readout"]}
        self.layer_paths = [(f"blocks.{layer}",) for layer in range(config.layers)]
        self.second_norms = [f"blocks.{layer}.ffn_norm" for layer in range(config.layers)]
        self.causal, self.checkpointing = config.causal, False
        self.apply(initialise)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """State after each item (B, L, D).

        Args:
            x: (B, L, D) item vectors.
            mask: (B, L) False at padding; left-padded.
        """
        positions_LD = self.positions(torch.arange(x.shape[1], device=x.device))
        x = self.dropout(self.input_norm(x + positions_LD))
        allowed = attendable(mask, self.causal)
        inputs = []
        for block in self.blocks:
            inputs.append(x)
            if self.checkpointing and self.training:
                x = checkpoint(block, x, allowed, use_reentrant=False)
            else:
                x = block(x, allowed)
        tensor: Tensor = self.readout(Hidden([*(inputs if self.readout.reads_all else ()), x], mask))
        return tensor

    def enable_gradient_checkpointing(self) -> None:
        self.checkpointing = True
