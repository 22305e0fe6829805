"""Principal components of frozen features, as the inputs of a projection.

Shape letters: M items, W width of the features, K components.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Axes(NamedTuple):
    """The centre of the features, and the scaled axes onto which they are projected."""

    centre: list[float]  # (W,)
    axes: list[list[float]]  # (K, W), each divided by the deviation of the features along it


def axes_of(features: NDArray[np.float32]) -> Axes | None:
    """The axes along which features (M, W) vary more than along an average axis (Kaiser's criterion).

    None if all features are the same, or there are none.
    """
    if not len(features):
        return None
    centre = features.mean(0, dtype=np.float64)
    centred = features - centre
    variances, axes = np.linalg.eigh(centred.T @ centred / len(features))
    kept = variances > max(variances.mean(), np.finfo(np.float32).tiny)
    if not kept.any():
        return None
    return Axes(centre.tolist(), (axes[:, kept] / np.sqrt(variances[kept])).T.tolist())


class PrincipalComponents(nn.Module):
    """A (x - c): components of mean 0 and variance 1 over the items from which the axes were computed.

    Without this, the mean of all features, and directions in which they hardly differ, would affect every step of a
    projection, because Adam moves all its weights by similar amounts.
    """

    centre: Tensor
    axes: Tensor

    def __init__(self, known: Axes) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(known.centre), persistent=False)
        self.register_buffer("axes", torch.tensor(known.axes), persistent=False)

    @property
    def count(self) -> int:
        return len(self.axes)

    def forward(self, features: Tensor) -> Tensor:
        """Components (M, K) of features (M, W), in the type of the axes."""
        components: Tensor = (features.to(self.axes.dtype) - self.centre) @ self.axes.T
        return components
