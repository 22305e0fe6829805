"""Gated: the vectors of an item's modalities with learned weights."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.nn.readout import Modalities, softmax_over


class GatedConfig(Config):
    """Configuration of `Gated`."""

    name: Literal["gated"] = Field("gated", description="sum of the vectors with learned weights")

    def build(self, modalities: int, width: int) -> "Gated":
        return Gated(modalities, width)


class Gated(nn.Module):
    """Σ_s g_s e_s, where g is the softmax of W [e_1; …; e_S] + b over those present."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(modalities * width, modalities)

    def forward(self, x: Modalities) -> Tensor:
        gates_US = softmax_over(x.present, self.gate(x.vectors.flatten(1)))
        return (x.vectors * gates_US.unsqueeze(-1)).sum(1)
