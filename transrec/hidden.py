"""Hidden states of a tower on their way from its last layer to what is read off them.

Shape letters: n sequences, T positions, H width of the tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Hidden:
    states: Sequence[Tensor]  # (n, T, H) each: the last layer's; before it the others', if somebody reads them
    mask: Tensor | None  # (n, T) True where a position counts; None: everywhere


class Readout(nn.Module):
    """The last hidden states. A module of its own so that an adapter that reads several layers has a site."""

    @property
    def reads_all(self) -> bool:
        return hasattr(self, "adapter")

    def forward(self, hidden: Hidden) -> Tensor:
        return hidden.states[-1]
