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
    """Mean of the vectors present, so that items with one modality and with all have the same scale."""

    def forward(self, x: Modalities) -> Tensor:
        return mean_over(x.present, x.vectors)
