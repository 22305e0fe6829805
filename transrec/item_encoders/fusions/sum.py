"""The fusion `sum`: the mean of the vectors of an item's modalities."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.nn.readout import Modalities, mean_over


class SumConfig(Config):
    """Configuration of `Sum`."""

    name: Literal["sum"] = Field("sum", description="mean of the vectors")

    def build(self, modalities: int, width: int) -> "Sum":
        return Sum()


class Sum(nn.Module):
    """Mean of the vectors present.

    It does not grow with the number of modalities, as a plain sum would, but it shrinks where they disagree: the mean
    of two orthogonal vectors is shorter than each by a factor of √2.
    """

    def forward(self, x: Modalities) -> Tensor:
        return mean_over(x.present, x.vectors)
