"""Embedding table of a feature's values.

Shape letters: B rows that are looked up, k values of each, E width.
"""

import torch
from torch import Tensor, nn

from transrec.protocols import EmbeddingTable

_INIT_STD = 0.01


class FeatureTable(EmbeddingTable):
    """A vector for each value of a vocabulary; row 0 stands for all values that training has not seen."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size + 1, width)
        nn.init.normal_(self.embedding.weight, std=_INIT_STD)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, E) the mean over the known values of rows (B, k); the unknown vector where there is none."""
        weights_Bk = (rows > 0).to(self.embedding.weight.dtype)
        nothing_B = weights_Bk.sum(1) == 0
        weights_Bk = torch.cat([weights_Bk[:, :1] + nothing_B[:, None], weights_Bk[:, 1:]], dim=1)
        summed_BE = (self.embedding(rows) * weights_Bk.unsqueeze(-1)).sum(1)
        mean_BE: Tensor = summed_BE / weights_Bk.sum(1, keepdim=True)
        return mean_BE
