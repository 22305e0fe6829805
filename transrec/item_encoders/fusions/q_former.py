"""Q-Former: learned queries that attend to each other, then to the tokens of the modalities.

Shape letters: U items, Q queries, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.item_encoders.fusions.tokens import TokenFusion, TransformerSettings, check_heads, or_all
from transrec.nn.readout import Modalities
from transrec.nn.transformer import LAYER_NORM_EPS, Attention, FeedForward


class QFormerConfig(TransformerSettings):
    """Configuration of `QFormer`."""

    name: Literal["q_former"] = Field("q_former", description="queries with cross-attention to the vectors (BLIP-2)")
    queries: int = Field(2, ge=1, description="learned queries")

    def build(self, modalities: int, width: int) -> "QFormer":
        return QFormer(self, width)


class QFormer(TokenFusion):
    """In each layer q = LN(q + MHA(q)), q = LN(q + MHA(q, E)), q = LN(q + FFN(q)), where E are the tokens of all
    modalities; the result is W [q_1; …; q_Q] + b.

    Paper: BLIP-2 (Li et al., ICML 2023).
    """

    def __init__(self, config: QFormerConfig, width: int) -> None:
        super().__init__()
        check_heads(config.heads, width)
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        nn.init.normal_(self.queries, std=0.02)
        self.layers = nn.ModuleList(_Layer(width, config) for _ in range(config.layers))
        self.output = nn.Linear(config.queries * width, width)

    def fuse(self, x: Modalities) -> Tensor:
        q_UQD = self.queries.to(x.vectors.dtype).expand(len(x.vectors), -1, -1)
        mask = or_all(x.present)[:, None, None, :]
        for layer in self.layers:
            q_UQD = layer(q_UQD, x.vectors, mask)
        fused_UD: Tensor = self.output(q_UQD.flatten(1))
        return fused_UD


class _Layer(nn.Module):
    def __init__(self, width: int, config: QFormerConfig) -> None:
        super().__init__()
        self.attention, self.cross = (Attention(width, config.heads, 0.0) for _ in range(2))
        self.ffn = FeedForward(width, 4 * width, nn.GELU)
        self.attention_norm, self.cross_norm, self.ffn_norm = (
            nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(3)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, q: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        q = self.attention_norm(q + self.dropout(self.attention(q, None)))
        q = self.cross_norm(q + self.dropout(self.cross(q, mask, vectors)))
        found: Tensor = self.ffn_norm(q + self.dropout(self.ffn(q)))
        return found
