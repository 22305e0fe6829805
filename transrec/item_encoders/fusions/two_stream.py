"""Two streams: the vector of each modality attends to those of the others.

Shape letters: U items, S modalities, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.item_encoders.fusions.tokens import TokenFusion, TransformerSettings, check_heads
from transrec.nn.readout import Modalities
from transrec.nn.transformer import LAYER_NORM_EPS, Attention, FeedForward


class TwoStreamConfig(TransformerSettings):
    """Configuration of `TwoStream`."""

    name: Literal["two_stream"] = Field("two_stream", description="each vector with cross-attention to the others")

    def build(self, modalities: int, width: int) -> "TwoStream":
        return TwoStream(self, modalities, width)


class TwoStream(TokenFusion):
    """In each layer and modality e_s = LN(e_s + MHA(e_s, others)), e_s = LN(e_s + FFN(e_s)); the result is the mean.

    Paper: the co-attention of ViLBERT (Lu et al., NeurIPS 2019); here each modality is one vector, and there may be
    more than two. The attention does not change a modality if all others are missing.
    """

    def __init__(self, config: TwoStreamConfig, modalities: int, width: int) -> None:
        super().__init__()
        check_heads(config.heads, width)
        self.layers = nn.ModuleList(_Layer(modalities, width, config) for _ in range(config.layers))

    def fuse(self, x: Modalities) -> Tensor:
        vectors = x.vectors
        for layer in self.layers:
            vectors = layer(vectors, x.present)
        weights_US = x.present / x.present.sum(1, keepdim=True).clamp(min=1)
        return (vectors * weights_US.to(vectors.dtype).unsqueeze(-1)).sum(1)


class _Layer(nn.Module):
    def __init__(self, modalities: int, width: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_Stream(place, width, config) for place in range(modalities))

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        return torch.stack([stream(vectors, present) for stream in self.streams], dim=1)


class _Stream(nn.Module):
    """The layer of the modality at `place`."""

    def __init__(self, place: int, width: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.place = place
        self.cross = Attention(width, config.heads, 0.0)
        self.ffn = FeedForward(width, 4 * width, nn.GELU)
        self.cross_norm, self.ffn_norm = (nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        own, others = vectors[:, self.place], present.clone()
        others[:, self.place] = False
        some = others.any(1, keepdim=True)
        read = self.cross(own.unsqueeze(1), (others | ~some)[:, None, None, :], vectors).squeeze(1)
        own = self.cross_norm(own + self.dropout(read * some))
        found: Tensor = self.ffn_norm(own + self.dropout(self.ffn(own)))
        return found
