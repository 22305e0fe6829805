"""Concat: an MLP over the vectors of all modalities."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.nn.readout import Modalities


class ConcatConfig(Config):
    """Configuration of `Concat`."""

    name: Literal["concat"] = Field("concat", description="an MLP over all vectors")

    def build(self, modalities: int, width: int) -> "Concat":
        return Concat(modalities, width)


class Concat(nn.Module):
    """W2 GELU(W1 [e_1; …; e_S; p] + b1) + b2, where p is 1 for the modalities present and 0 for others."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(modalities * (width + 1), width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Modalities) -> Tensor:
        fused_UD = self.mlp(torch.cat([x.vectors.flatten(1), x.present.to(x.vectors.dtype)], dim=1))
        tensor: Tensor = fused_UD * x.present.any(1, keepdim=True)
        return tensor
