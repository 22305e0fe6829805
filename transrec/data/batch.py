"""The batch contract between the streams and the models: item indices, and the content of each distinct item once.

Shape letters: B windows, L input positions, P scored positions (L, or 1 when only the last is scored), K negatives,
U distinct items of the batch (the pool), n items of a chunk, T tokens of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from transrec.config import Config

Batch = TypeVar("Batch")
TokenChunk = dict[str, Tensor]  # Hugging Face names: input_ids (n, T), attention_mask (n, T)


class Sampling(Config):
    """What an objective asks of the stream."""

    positions: Literal["all", "last"] = "all"
    negatives: int = 0  # uniform negatives per scored position
    pool: Literal["batch", "catalogue"] = "batch"  # the distinct items of the batch, or every candidate item
    owned: bool = False  # mark pool items of the user's own training history


@dataclass(frozen=True)
class ItemContent:
    """The distinct items of a batch, in the order of their chunks: pool row u is item `items[u]`."""

    items: Tensor  # (U,) int64, catalogue indices 1..N
    text: list[TokenChunk] | None = None  # contiguous runs of `items`, sorted by length; row counts sum to U
    chunks: int = 1  # encoder passes every rank runs for this batch; at least the number of own chunks

    def pin_memory(self) -> "ItemContent":
        return map_tensors(self, Tensor.pin_memory)

    @property
    def own_chunks(self) -> int:
        return len(self.text) if self.text is not None else 1

    @property
    def tokens(self) -> tuple[int, int]:
        """(tokens that carry text, tokens computed on, padding included)."""
        chunks = self.text or []
        return sum(int(c["attention_mask"].sum()) for c in chunks), sum(c["input_ids"].numel() for c in chunks)


@dataclass(frozen=True)
class SequenceBatch:
    """Training windows of B users, left-padded; all index tensors point at rows of the pool."""

    content: ItemContent
    inputs: Tensor  # (B, L) int64 pool rows; 0 where padded
    input_mask: Tensor  # (B, L) bool
    targets: Tensor  # (B, P) int64 pool rows
    target_mask: Tensor  # (B, P) bool
    negatives: Tensor  # (B, P, K) int64 pool rows
    log_popularity: Tensor  # (U,) float32, log of each pool item's share of training interactions
    draws: int  # item occurrences the pool was made of
    owned: Tensor | None  # (B, U) bool, see Sampling.owned
    user_ids: list[str]  # of the windows that are not empty: the end of an epoch leaves gaps, so rows need not line up
    digest: int = 0  # which windows lie in which slots; adds up over the parts of a global batch
    normaliser: float = 1.0  # scored positions per micro-batch, averaged over all ranks and micro-batches of the step

    def pin_memory(self) -> "SequenceBatch":
        return map_tensors(self, Tensor.pin_memory)

    @property
    def scored(self) -> int:
        return int(self.target_mask.sum())

    @property
    def occurrences(self) -> int:
        """Item slots an encoder without the pool would run: inputs, targets of the last position and negatives."""
        return int(self.input_mask.sum()) + len(self.user_ids) + self.scored * self.negatives.shape[-1]


def to_device(batch: Batch, device: torch.device) -> Batch:
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor inside; dataclasses, lists and dicts are rebuilt."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, ItemContent | SequenceBatch):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change) for f in fields(value)})
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_tensors(item, change) for item in value]
    return value
