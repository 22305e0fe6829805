"""Projections of a backbone's features to the recommender's width.

Shape letters: n items, W width of the features, D width of the recommender.
"""

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Projection = Literal["linear_gelu", "linear", "mlp"]


class LinearGELU(nn.Linear):
    """GELU(W x + b), as in TransRec."""

    def forward(self, features: Tensor) -> Tensor:
        """Vectors (n, D) of features (n, W)."""
        return F.gelu(super().forward(features))


class MLP(nn.Module):
    """W₂ GELU(W₁ √W · x / |x| + b₁) + b₂, with W hidden units; the length of x has no effect."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(features, features)
        self.outer = nn.Linear(features, width)
        self._length = math.sqrt(features)

    def forward(self, features: Tensor) -> Tensor:
        """Vectors (n, D) of features (n, W)."""
        unit = F.normalize(features, dim=-1) * self._length
        vectors: Tensor = self.outer(F.gelu(self.inner(unit)))
        return vectors


def build_projection(kind: Projection, features: int, width: int) -> nn.Module:
    """The projection from `features` to `width`."""
    kinds = {"linear_gelu": LinearGELU, "linear": nn.Linear, "mlp": MLP}
    found: nn.Module = kinds[kind](features, width)
    return found
