"""Fusion-Q-Former: learned queries and the tokens of the modalities attend to each other.

Shape letters: U items, Q queries, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.item_encoders.fusions.sum import Sum
from transrec.item_encoders.fusions.tokens import TokenFusion, TransformerSettings, check_heads
from transrec.nn.readout import Modalities
from transrec.nn.transformer import Attention

_LAYER_NORM_EPS = 1e-5


class FusionQFormerConfig(TransformerSettings):
    """Configuration of `FusionQFormer`."""

    name: Literal["fq_former"] = Field("fq_former", description="queries and vectors in one self-attention (EM3)")
    queries: int = Field(2, ge=1, description="learned queries")
    residual: bool = Field(
        True, description="add the mean of the modalities' vectors, each the mean of its tokens; EM3 has no such term"
    )

    def build(self, modalities: int, width: int) -> "FusionQFormer":
        return FusionQFormer(self, width)


class FusionQFormer(TokenFusion):
    """Z = [Q; E_1; …; E_S], where E_s are the tokens of a modality; in each layer Z = LN(Z + Dropout(MHA(Z))); the
    result is W [Z_1; …; Z_Q] + b + (Σ_s mean(E_s)) / S.

    Paper: EM3 (arXiv 2404.06078), with the layers of its public code: no cross-attention and no feed-forward network.
    The paper does not state what a token is. Deviations: missing modalities are masked, which the public code never
    does; the attention has no biases; the last term, over the modalities present, is ours. This term passes on the
    information in each modality by itself, so the queries only have to learn how the modalities interact
    (`docs/results/ranking.md` shows its effect); all modalities have the same weight, however many tokens they have.
    """

    def __init__(self, config: FusionQFormerConfig, width: int) -> None:
        super().__init__()
        check_heads(config.heads, width)
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        nn.init.xavier_uniform_(self.queries)
        self.attentions = nn.ModuleList(Attention(width, config.heads, 0.0) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=_LAYER_NORM_EPS) for _ in range(config.layers))
        self.output = nn.Linear(config.queries * width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.skip = Sum() if config.residual else None

    def fuse(self, x: Modalities) -> Tensor:
        queries_UQD = self.queries.to(x.vectors.dtype).expand(len(x.vectors), -1, -1)
        z, mask = torch.cat([queries_UQD, x.vectors], dim=1), self.attendable(x.present, len(self.queries))
        *others, last = zip(self.attentions, self.norms, strict=True)
        for attention, norm in others:
            z = norm(z + self.dropout(attention(z, mask)))
        attention, norm = last
        # Only the queries' states are read. With tokens, computing all states costs ten times as much. Without tokens,
        # it costs little, and computing only some would change the draws of dropout and the results of earlier runs.
        read = z[:, : len(self.queries)] if x.has_tokens else z
        z = norm(read + self.dropout(attention(read, mask, z)))
        fused_UD: Tensor = self.output(z[:, : len(self.queries)].flatten(1))
        return fused_UD if self.skip is None else fused_UD + self.skip(x.averaged())
