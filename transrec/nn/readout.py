"""Readout of a tower: pooling of its hidden states, and the site for adapters that read several layers.

Shape letters: n sequences, T positions, H width of the tower, U distinct items of a batch, S modalities (or states that
are read), K vectors or K_s of a modality, D width.

Designs considered for adapters that read several layers: with a hook on each layer that stores its states in a context,
no module owns the states, and recomputation stores them twice. Wrapping the encoder changes every parameter name.
Chosen: a module at the end of the tower, to which such an adapter attaches as to any other site. It also pools, so that
an adapter that needs one vector per layer (a side network) works on (n, S, H), while one that attends over positions
(K-Adapter) still gets all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Pool = Callable[[Tensor, Tensor | None], Tensor]  # (states (n, T, H), mask) -> pooled states


def every_position(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return `states` unchanged, for a tower that is read at every position."""
    return states


@dataclass(frozen=True)
class Hidden:
    """The states of an encoder's layers, and how their positions are pooled."""

    states: Sequence[Tensor]  # (n, T, H) each: the last layer's, preceded by the others' if an adapter reads them
    mask: Tensor | None  # (n, T) False at padding; None: no padding
    pool: Pool = every_position

    def pooled(self, states: Tensor) -> Tensor:
        """Pool states (n, T, H) to (n, H); (n, T, H) for a tower that is read at every position."""
        return self.pool(states, self.mask)


@dataclass(frozen=True)
class Modalities:
    """Outputs of the modality encoders for the items of a batch, the input of their fusion."""

    names: Sequence[str]
    vectors: Tensor  # (U, K, D), those of the first modality first; K = S unless the fusion reads tokens
    present: Tensor  # (U, K) bool; without tokens, the vectors of missing modalities are zeros
    pooled: Mapping[str, Sequence[Tensor]]  # (U, H) each, by tower and layer; empty unless an adapter reads them
    lengths: Sequence[int] = ()  # vectors K_s of each modality, padding included; empty: one of each

    def has(self, name: str) -> Tensor:
        """(U,) bool, True for items that have the modality `name`."""
        return self.each(self.present)[list(self.names).index(name)].any(1)

    def each(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Parts of each modality of `tensor` (U, K, …), as views."""
        parts: tuple[Tensor, ...] = tensor.split(list(self.lengths) or 1, dim=1)
        return parts

    @property
    def has_tokens(self) -> bool:
        """Whether any modality has several vectors, or none."""
        return any(length != 1 for length in self.lengths)

    def averaged(self) -> "Modalities":
        """One vector for each modality: the mean of its tokens."""
        if not self.has_tokens:
            return self
        pairs = zip(self.each(self.present), self.each(self.vectors), strict=True)
        vectors = torch.stack([mean_over(present, tokens) for present, tokens in pairs], dim=1)
        present = torch.stack([tokens.any(1) for tokens in self.each(self.present)], dim=1)
        return replace(self, vectors=vectors, present=present, lengths=())


class Readout(nn.Module):
    """Pools the last hidden states; it is a module so that an adapter that reads several layers has a site.

    Such an adapter has `reads`, the indices of the states it reads, and `reads_pooled`, whether it reads only pooled
    states.
    """

    def __init__(self, widths: Sequence[int]):
        """
        Args:
            widths: width of each of the states, the embeddings' first.
        """
        super().__init__()
        self.widths = tuple(widths)

    @property
    def reads_all(self) -> bool:
        """Whether an adapter reads states other than the last."""
        return hasattr(self, "adapter")

    @property
    def reads(self) -> list[int]:
        """Indices of the states that are read; -1 for the last, which is always read."""
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
        """The states that are read, pooled and concatenated to (n, S·H): the input of `from_pooled`."""
        return torch.cat([hidden.pooled(hidden.states[read]) for read in self.reads], dim=-1)

    def from_pooled(self, pooled: Tensor) -> Tensor:
        """Output of `forward`, computed from pooled states; requires `reads_pooled`."""
        tensor: Tensor = self(Hidden(self.placed(pooled), mask=None))
        return tensor

    def placed(self, states: Tensor) -> list[Any]:
        """Split `states` (…, S·H) into the states that are read, each at its index; None at all other indices."""
        places: list[Any] = [None] * len(self.widths)
        for read, state in zip(self.reads, states.chunk(len(self.reads), dim=-1), strict=True):
            places[read] = state
        return places


def mean_over(present: Tensor, vectors: Tensor) -> Tensor:
    """Mean (U, D) of the vectors (U, K, D) that are present (U, K); zeros if none is present."""
    weights_UK = present / present.sum(1, keepdim=True).clamp(min=1)
    return (vectors * weights_UK.to(vectors.dtype).unsqueeze(-1)).sum(1)


def softmax_over(present: Tensor, scores: Tensor) -> Tensor:
    """Softmax of scores (…, S) over the present entries; zeros if none is present."""
    lowest = torch.finfo(scores.dtype).min  # not -inf, which gives nan if none is present
    return scores.masked_fill(~present, lowest).softmax(-1) * present
