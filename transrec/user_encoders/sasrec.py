"""SASRec: a causal transformer over the items of a user.

Shape letters: B users, L positions, D width, h heads, d width of a head.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from transrec.config import Config, ConfigError
from transrec.hidden import Hidden, Readout

LAYER_NORM_EPS = 1e-6


_SITES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_input": "attention",
    "attention_output": "attention.output",
    "ffn_input": "ffn",
    "ffn_hidden": "ffn.activation",
    "ffn_output": "ffn.output",
}


class SASRecConfig(Config):
    name: Literal["sasrec"] = "sasrec"
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    ffn_multiplier: int = Field(4, ge=1)

    def build(self, width: int, max_length: int) -> "SASRec":
        return SASRec(self, width, max_length)


class SASRec(nn.Module):
    """x = Dropout(LN(e + P)), then per block: a = LN(x + Dropout(MHA(x))); x = LN(a + Dropout(FFN(a))).

    Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, in the post-LN form of
    TransRec (Fu et al., WSDM 2024, both its SASRec and its CPC). Positions are absolute in the left-padded
    window, so the newest item is always at the last one. Deviation: a padded query attends to itself instead
    of to all keys; neither reaches a valid position.
    """

    def __init__(self, config: SASRecConfig, width: int, max_length: int):
        super().__init__()
        if width % config.heads:
            raise ConfigError(f"`user_encoder.heads`: {config.heads} does not divide the width {width}")
        self.positions = nn.Embedding(max_length, width)
        self.input_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, width) for _ in range(config.layers))
        self.num_layers = config.layers
        self.readout = Readout()
        self.hidden_size = width
        self.site_paths = {
            site: [f"blocks.{layer}.{path}" for layer in range(config.layers)] for site, path in _SITES.items()
        } | {"readout": ["readout"]}
        self.checkpointing = False
        self.apply(_initialise)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            x: (B, L, D) item vectors.
            mask: (B, L) True where an item is; left-padded.
        """
        positions_LD = self.positions(torch.arange(x.shape[1], device=x.device))
        x = self.dropout(self.input_norm(x + positions_LD))
        attendable = _attendable(mask)
        inputs = []
        for block in self.blocks:
            inputs.append(x)
            if self.checkpointing and self.training:
                x = checkpoint(block, x, attendable, use_reentrant=False)
            else:
                x = block(x, attendable)
        return self.readout(Hidden([*(inputs if self.readout.reads_all else ()), x], mask))

    def enable_gradient_checkpointing(self) -> None:
        self.checkpointing = True


class Block(nn.Module):
    def __init__(self, config: SASRecConfig, width: int):
        super().__init__()
        self.attention = Attention(width, config.heads, config.dropout)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ffn = FeedForward(width, config.ffn_multiplier * width)
        self.ffn_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attendable: Tensor) -> Tensor:
        a = self.attention_norm(x + self.dropout(self.attention(x, attendable)))
        return self.ffn_norm(a + self.dropout(self.ffn(a)))


class Attention(nn.Module):
    """Multi-head attention without biases, scale 1/√d, dropout on the probabilities."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, attendable: Tensor) -> Tensor:
        q_BhLd, k_BhLd, v_BhLd = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        y_BhLd = F.scaled_dot_product_attention(q_BhLd, k_BhLd, v_BhLd, attendable, dropout)
        return self.output(y_BhLd.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.activation = nn.ReLU()
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activation(self.hidden(x)))


def _attendable(mask: Tensor) -> Tensor:
    """(B, 1, L, L) True where i may see j: a valid j ≤ i, or i itself, which keeps padding finite."""
    length = mask.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself_LL = torch.eye(length, dtype=torch.bool, device=mask.device)
    return (causal_LL & mask[:, None, None, :]) | itself_LL


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
