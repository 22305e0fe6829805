"""Mean: the average of a history, independent of the candidate.

Shape letters: B candidates, L items of their histories, D width.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from transrec.config import Config
from transrec.protocols import Interest


class MeanConfig(Config):
    """Configuration of `Mean`."""

    name: Literal["mean"] = Field("mean", description="mean of the history")

    def build(self, width: int) -> "Mean":
        return Mean()


class Mean(Interest):
    """The mean of the history's vectors."""

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Interests (B, D); see `Interest`."""
        summed_BD = (history * mask.unsqueeze(-1)).sum(1)
        return summed_BD / mask.sum(1, keepdim=True).clamp(min=1)
