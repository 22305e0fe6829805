"""Hidden states of a tower on their way from its last layer to what is read off them.

Shape letters: n sequences, T positions, H width of the tower, U distinct items of a batch, S modalities, D width.

Designs considered, for adapters that look at several layers. A hook on each layer that leaves its states in a context:
nobody owns them, and recomputation fills it twice. Wrapping the encoder: every name changes. Taken: a module at the
end, which such an adapter joins like any other site. It pools as well, so that one which needs a single vector of each
layer (a side network) works on (n, S, H), while one that attends over positions (K-Adapter) still has them all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pool = Callable[[Tensor, Tensor | None], Tensor]  # (states (n, T, H), mask) to what is read off them


def every_position(states: Tensor, mask: Tensor | None) -> Tensor:
    """For a tower that is read at every position."""
    return states


@dataclass(frozen=True)
class Hidden:
    """The states of an encoder's layers, and how their positions are pooled."""

    states: Sequence[Tensor]  # (n, T, H) each: the last layer's; before it the others', if somebody reads them
    mask: Tensor | None  # (n, T) True where a position counts; None: everywhere
    pool: Pool = every_position

    def pooled(self, states: Tensor) -> Tensor:
        """(n, H), or (n, T, H) where nothing is pooled, of states (n, T, H)."""
        return self.pool(states, self.mask)


@dataclass(frozen=True)
class Modalities:
    """What the encoders of several modalities say of the items of a batch, on its way to one vector each."""

    names: Sequence[str]
    vectors: Tensor  # (U, S, D), zeros where missing
    present: Tensor  # (U, S) bool
    pooled: Mapping[str, Sequence[Tensor]]  # (U, H) each, by tower and layer; empty unless somebody reads them

    def has(self, name: str) -> Tensor:
        """(U,) bool."""
        return self.present[:, list(self.names).index(name)]


class Readout(nn.Module):
    """What is read off the last hidden states. A module so that an adapter that reads several layers has a site.

    Such an adapter says by their indices which states it `reads`, and whether only pooled ones (`reads_pooled`).
    """

    def __init__(self, widths: Sequence[int]):
        """
        Args:
            widths: of all states, the embeddings' first.
        """
        super().__init__()
        self.widths = tuple(widths)

    @property
    def reads_all(self) -> bool:
        """Is more read than the last states?"""
        return hasattr(self, "adapter")

    @property
    def reads(self) -> list[int]:
        """Indices of the states that are read; the last, which always is, has -1."""
        others = set(self._adapter.reads) - {len(self.widths) - 1} if self.reads_all else set()
        return [*sorted(others), -1]

    @property
    def reads_pooled(self) -> bool:
        return not self.reads_all or self._adapter.reads_pooled

    @property
    def _adapter(self) -> Any:
        return self.get_submodule("adapter")

    def forward(self, hidden: Hidden) -> Tensor:
        return hidden.pooled(hidden.states[-1])

    def pooled(self, hidden: Hidden) -> Tensor:
        """(n, S·H) of the S states that are read, pooled: what `from_pooled` starts from."""
        return torch.cat([hidden.pooled(hidden.states[read]) for read in self.reads], dim=-1)

    def from_pooled(self, pooled: Tensor) -> Tensor:
        """What `forward` gives for the states behind `pooled`, if only pooled ones are read."""
        tensor: Tensor = self(Hidden(self.placed(pooled), mask=None))
        return tensor

    def placed(self, states: Tensor) -> list[Any]:
        """Each of the states that are read (…, S·H) at its index; None at the others."""
        places: list[Any] = [None] * len(self.widths)
        for read, state in zip(self.reads, states.chunk(len(self.reads), dim=-1), strict=True):
            places[read] = state
        return places


def softmax_over(present: Tensor, scores: Tensor) -> Tensor:
    """Of scores (…, S), over those of the S that are present; zeros where none is."""
    lowest = torch.finfo(scores.dtype).min  # not -inf: an item may have none
    return scores.masked_fill(~present, lowest).softmax(-1) * present
