"""A vector and a bias per item for scoring, in place of the item encoder's vectors.

Shape letters: U items, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.protocols import CatalogueTable

VECTOR_STD, FIRST_BIAS = 0.01, 0.1


class OutputTable(CatalogueTable):
    """Scores item i by ⟨h, w_i⟩ + b_i = ⟨[h; 1], [w_i; b_i]⟩, so that scores remain inner products.

    Paper: Yuan et al., WSDM 2019 and SIGIR 2020 (NextItNet, PeterRec). Like an ID embedding, it belongs to the items
    of one catalogue.
    """

    def __init__(self, width: int, num_items: int):
        super().__init__()
        self.vectors = nn.Embedding(num_items + 1, width)
        self.bias = nn.Embedding(num_items + 1, 1)
        nn.init.normal_(self.vectors.weight, std=VECTOR_STD)
        nn.init.constant_(self.bias.weight, FIRST_BIAS)

    def forward(self, items: Tensor) -> Tensor:
        """Output vectors (U, D + 1) of catalogue indices (U,)."""
        return torch.cat([self.vectors(items), self.bias(items)], dim=-1)

    def matching(self, states: Tensor) -> Tensor:
        """States (…, D) extended by a 1 for the bias, (…, D + 1)."""
        return F.pad(states, (0, 1), value=1.0)
