"""Hidden states of a tower on their way from its last layer to what is read off them.

Shape letters: n sequences, T positions, H width of the tower.

Designs considered, for adapters that look at several layers. A hook on each layer that leaves its states in a context:
nobody owns them, and recomputation fills it twice. Wrapping the encoder: every name changes. Taken: a module at the
end, which such an adapter joins like any other site. It pools as well, so that one which needs a single vector of each
layer (a side network) works on (n, S, H), while one that attends over positions (K-Adapter) still has them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Pool = Callable[[Tensor, Tensor | None], Tensor]  # (states (n, T, H), mask) to what is read off them


def every_position(states: Tensor, mask: Tensor | None) -> Tensor:
    """For a tower that is read at every position."""
    return states


@dataclass(frozen=True)
class Hidden:
    states: Sequence[Tensor]  # (n, T, H) each: the last layer's; before it the others', if somebody reads them
    mask: Tensor | None  # (n, T) True where a position counts; None: everywhere
    pool: Pool = every_position

    def pooled(self, states: Tensor) -> Tensor:
        """(n, H), or (n, T, H) where nothing is pooled, of states (n, T, H)."""
        return self.pool(states, self.mask)


class Readout(nn.Module):
    """What is read off the last hidden states. A module so that an adapter that reads several layers has a site."""

    def __init__(self, widths: Sequence[int]):
        """
        Args:
            widths: of all states, the embeddings' first.
        """
        super().__init__()
        self.widths = tuple(widths)

    @property
    def reads_all(self) -> bool:
        return hasattr(self, "adapter")

    def forward(self, hidden: Hidden) -> Tensor:
        return hidden.pooled(hidden.states[-1])
