"""DIN: a small network computes the weight of each item of the history from that item and the candidate.

Shape letters: B candidates, L items of their histories, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.protocols import Interest


class DINConfig(Config):
    """Configuration of `DIN`."""

    name: Literal["din"] = Field("din", description="attention to the history by a small network (DIN)")
    hidden: int = Field(36, ge=1, description="width of the network inside the attention")

    def build(self, width: int) -> "DIN":
        return DIN(self, width)


class DIN(Interest):
    """Σ_l a(h_l, c) h_l with a(h, c) = w · PReLU(W [h; c; h − c; h ⊙ c] + b) + b', without a softmax.

    Paper: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, which leaves
    out the softmax to keep the intensity of an interest. Deviation: PReLU in place of Dice, whose batch statistics
    would differ between ranks.
    """

    def __init__(self, config: DINConfig, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * width, config.hidden)
        self.activation = nn.PReLU()
        self.weight = nn.Linear(config.hidden, 1)

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Interests (B, D); see `Interest`."""
        c_BLD = candidates.unsqueeze(1).expand_as(history)
        both = torch.cat([history, c_BLD, history - c_BLD, history * c_BLD], dim=-1)
        weights_BL = self.weight(self.activation(self.hidden(both))).squeeze(-1) * mask
        found: Tensor = (history * weights_BL.unsqueeze(-1)).sum(1)
        return found
