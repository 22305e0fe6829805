"""The common part of fusions in which the vectors of an item's modalities attend to each other.

Shape letters: U items, K tokens, D width, A vectors before the tokens. A token is the one vector of a modality or, with
`granularity: tokens`, that of a word piece or patch.
"""

from abc import abstractmethod
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config, ConfigError
from transrec.nn.readout import Modalities


class TransformerSettings(Config):
    """Settings of fusions with attention; the defaults are those of EM3."""

    granularity: Literal["pooled", "tokens"] = Field(
        "pooled", description="what is fused: one vector of each modality, or one of every word piece and patch"
    )
    layers: int = Field(1, ge=1, description="layers")
    heads: int = Field(4, ge=1, description="attention heads; must divide the width")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the output of each sub-layer")


class TokenFusion(nn.Module):
    """A fusion whose result is zero for items without any modality."""

    def forward(self, x: Modalities) -> Tensor:
        """Fused vectors (U, D)."""
        return self.fuse(x) * x.present.any(1, keepdim=True)

    @abstractmethod
    def fuse(self, x: Modalities) -> Tensor:
        """Fused vectors (U, D); finite, whichever modalities are missing."""

    @staticmethod
    def attendable(present: Tensor, before: int) -> Tensor:
        """Mask (U, 1, 1, A + K), True for the first `before` (A) vectors and for the tokens that are present."""
        return F.pad(present, (before, 0), value=True)[:, None, None, :]


def or_all(present: Tensor) -> Tensor:
    """`present` (U, K), with True everywhere for items without any modality, whose attention would give NaN."""
    return present | ~present.any(1, keepdim=True)


def check_heads(heads: int, width: int) -> None:
    """
    Raises:
        ConfigError: the heads do not divide the width.
    """
    if width % heads:
        raise ConfigError(f"`model.width` {width} must be divisible by the {heads} heads of `item_encoder.fusion`")
