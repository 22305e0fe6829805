"""Two streams: the tokens of each modality attend to those of the others.

Shape letters: U items, K_s tokens of a modality, D width.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.item_encoders.fusions.tokens import TokenFusion, TransformerSettings, check_heads
from transrec.nn.readout import Modalities, mean_over
from transrec.nn.transformer import LAYER_NORM_EPS, Attention, FeedForward


class TwoStreamConfig(TransformerSettings):
    """Configuration of `TwoStream`."""

    name: Literal["two_stream"] = Field("two_stream", description="each vector with cross-attention to the others")

    def build(self, modalities: int, width: int) -> "TwoStream":
        return TwoStream(self, modalities, width)


class TwoStream(TokenFusion):
    """In each layer and modality E_s = LN(E_s + MHA(E_s, others)), E_s = LN(E_s + FFN(E_s)); the result is the mean of
    the modalities, each the mean of its tokens.

    Paper: the co-attention of ViLBERT (Lu et al., NeurIPS 2019); here there may be more than two modalities. The
    attention does not change a modality if all others are missing.
    """

    def __init__(self, config: TwoStreamConfig, modalities: int, width: int) -> None:
        super().__init__()
        check_heads(config.heads, width)
        self.layers = nn.ModuleList(_Layer(modalities, width, config) for _ in range(config.layers))

    def fuse(self, x: Modalities) -> Tensor:
        for layer in self.layers:
            x = replace(x, vectors=layer(x))
        x = x.averaged()
        return mean_over(x.present, x.vectors)


class _Layer(nn.Module):
    def __init__(self, modalities: int, width: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_Stream(place, width, config) for place in range(modalities))

    def forward(self, x: Modalities) -> Tensor:
        return torch.cat([stream(x) for stream in self.streams], dim=1)


class _Stream(nn.Module):
    """The layer of the modality at `place`."""

    def __init__(self, place: int, width: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.place = place
        self.cross = Attention(width, config.heads, 0.0)
        self.ffn = FeedForward(width, 4 * width, nn.GELU)
        self.cross_norm, self.ffn_norm = (nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Modalities) -> Tensor:
        own, others = x.each(x.vectors)[self.place], x.present.clone()
        x.each(others)[self.place].fill_(False)
        some = others.any(1, keepdim=True)
        read = self.cross(own, (others | ~some)[:, None, None, :], x.vectors)
        own = self.cross_norm(own + self.dropout(read * some.unsqueeze(-1)))
        found: Tensor = self.ffn_norm(own + self.dropout(self.ffn(own)))
        return found
