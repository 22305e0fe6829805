"""Single stream: a transformer over a class token and the tokens of all modalities.

Shape letters: U items, S modalities, K tokens, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.item_encoders.fusions.tokens import TokenFusion, TransformerSettings, check_heads
from transrec.nn.readout import Modalities
from transrec.nn.transformer import Block


class SingleStreamConfig(TransformerSettings):
    """Configuration of `SingleStream`."""

    name: Literal["single_stream"] = Field("single_stream", description="a transformer over all vectors")

    def build(self, modalities: int, width: int) -> "SingleStream":
        return SingleStream(self, modalities, width)


class SingleStream(TokenFusion):
    """The state of a class token after transformer blocks over [c; E_1 + t_1; …; E_S + t_S], with a learned t for each
    modality.

    Paper: ViLT (Kim et al., ICML 2021), whose tokens are words and patches, as with `granularity: tokens`.
    """

    def __init__(self, config: SingleStreamConfig, modalities: int, width: int) -> None:
        super().__init__()
        check_heads(config.heads, width)
        self.kinds = nn.Parameter(torch.empty(1 + modalities, width))  # the class token first
        nn.init.normal_(self.kinds, std=0.02)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, 4 * width, config.dropout, nn.GELU) for _ in range(config.layers)
        )

    def fuse(self, x: Modalities) -> Tensor:
        first_1D, *kinds = self.kinds.to(x.vectors.dtype).split(1)
        lengths = x.lengths or [1] * len(kinds)
        kinds_KD = torch.cat([kind.expand(length, -1) for kind, length in zip(kinds, lengths, strict=True)])
        z = torch.cat([first_1D.expand(len(x.vectors), 1, -1), x.vectors + kinds_KD], dim=1)
        mask = self.attendable(x.present, 1)
        for block in self.blocks:
            z = block(z, mask)
        return z[:, 0]
