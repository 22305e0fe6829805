"""GRU4Rec: a recurrent network over a user's items.

Shape letters: B users, L positions, D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.protocols import UserEncoder


class GRU4RecConfig(Config):
    """Configuration of `GRU4Rec`."""

    name: Literal["gru4rec"] = Field("gru4rec", description="a recurrent network")
    layers: int = Field(1, ge=1, description="recurrent layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the input")

    causal: ClassVar[bool] = True

    def build(self, width: int, max_length: int) -> "GRU4Rec":
        return GRU4Rec(self, width)


class GRU4Rec(UserEncoder):
    """h = W GRU(Dropout(e)) + b, the state after each item.

    Paper: Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016.
    Deviations: the configured objective as loss, whole windows instead of session-parallel mini-batches, and
    vectors of any item encoder instead of one-hot inputs. Weights have PyTorch's default initialisation, U(±1/√D).
    """

    def __init__(self, config: GRU4RecConfig, width: int):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(width, width, num_layers=config.layers, batch_first=True)
        self.output = nn.Linear(width, width)
        self.num_layers = config.layers
        self.layer_paths = [("gru",), ("output",)]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """State after each item (B, L, D).

        Args:
            x: (B, L, D) item vectors.
            mask: (B, L) False at padding; left-padded.
        """
        padding_B = (~mask).sum(1)
        # Valid positions come first, so that the first item starts from the zero state, not from that of the padding.
        states, _ = self.gru(_roll(self.dropout(x), padding_B))
        tensor: Tensor = self.output(_roll(states, -padding_B))
        return tensor


def _roll(x: Tensor, shift_B: Tensor) -> Tensor:
    """Rotate each row of `x` (B, L, D) to the left by its own shift."""
    length = x.shape[1]
    source_BL = (torch.arange(length, device=x.device) + shift_B.unsqueeze(1)) % length
    return x.gather(1, source_BL.unsqueeze(-1).expand_as(x))
