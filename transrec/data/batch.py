"""Batches between the streams and the models: item indices, and the content of each distinct item once.

Shape letters: B windows, L input positions, P scored positions (L, or 1 when only the last is scored), K negatives,
U distinct items of the batch (the pool), M of them that have a modality, n items of a chunk, T tokens of a chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.config import Config

T = TypeVar("T")
Chunk = dict[str, Tensor]  # inputs of one encoder pass, n items first: input_ids and attention_mask (n, T), …


class Sampling(Config):
    """The targets and negatives that an objective asks of a batch."""

    loss: str = "loss"  # name of the loss whose terms the targets are
    positions: Literal["all", "last"] = "all"
    negatives: int = 0  # uniform negatives per scored position
    pool: Literal["batch", "catalogue"] = "batch"  # the distinct items of the batch, or every candidate item
    owned: bool = False  # mark pool items of the user's own training history
    candidates: float = 0.0  # share of the catalogue drawn for all windows of a step, popular items more often
    masked: float = 0.0  # share of a window's items that are hidden, and the targets


@dataclass(frozen=True)
class Targets:
    """A vocabulary, 1..size, that is predicted and ranked."""

    size: int
    of_items: bool = True  # the items of the catalogue; False: targets of a task, whose vectors the model has to hold


@dataclass(frozen=True)
class ModalityContent:
    """One modality of the pool, cut into encoder passes. Items that lack it are in no pass."""

    rows: Tensor  # (M,) int64, pool rows in the order of the chunks
    chunks: list[Chunk]  # contiguous runs of `rows`; none if no item has the modality
    blank: Chunk  # of one item: what a pass runs on that only keeps step with the other ranks
    passes: int  # encoder passes every rank runs for this batch: at least one, and the number of own chunks


def modality_content(rows: NDArray[np.int64], chunks: list[Chunk], blank: Chunk) -> ModalityContent:
    """Content whose surplus passes repeat its first item, or run on `blank` where there is none."""
    if chunks:
        blank = {name: tensor[:1] for name, tensor in chunks[0].items()}
    return ModalityContent(torch.from_numpy(rows), chunks, blank, passes=max(1, len(chunks)))


@dataclass(frozen=True)
class ItemContent:
    """The distinct items of a batch: pool row u is item `items[u]`."""

    items: Tensor  # (U,) int64, catalogue indices 1..N
    modalities: dict[str, ModalityContent]  # by name, those that the item encoder reads

    @property
    def passes(self) -> list[int]:
        """Encoder passes by modality, in the order of `modalities`."""
        return [modality.passes for modality in self.modalities.values()]

    def with_passes(self, passes: Sequence[int]) -> "ItemContent":
        pairs = zip(self.modalities.items(), passes, strict=True)
        return replace(self, modalities={name: replace(modality, passes=n) for (name, modality), n in pairs})

    @property
    def tokens(self) -> tuple[int, int]:
        """(tokens that carry text, tokens computed on, padding included)."""
        masks = [c["attention_mask"] for m in self.modalities.values() for c in m.chunks if "attention_mask" in c]
        return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)


@dataclass(frozen=True)
class SequenceBatch:
    """Training windows of B users, left-padded; all index tensors point at rows of the pool.

    Targets and negatives of a task point at rows of its table instead.
    """

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
    counts: dict[str, int]  # scored positions, by the name of their loss
    occurrences: int  # item slots an encoder without the pool would run
    candidates: Tensor | None = None  # (S,) int64 pool rows, the same items for all parts of a step
    log_inclusion: Tensor | None = None  # (U,) float32, log of how likely a pool item was to be among the candidates
    masked: Tensor | None = None  # (B, L) bool, inputs whose place a token takes
    digest: int = 0  # which windows lie in which slots; adds up over the parts of a global batch

    @property
    def size(self) -> int:
        """Windows."""
        return len(self.user_ids)

    @property
    def positions(self) -> tuple[int, int]:
        """(positions of histories that are filled, positions computed on)."""
        return int(self.input_mask.sum()), self.input_mask.numel()


def to_device(batch: T, device: torch.device) -> T:
    """`batch` with every tensor inside on `device`."""
    found: T = map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
    return found


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor inside; dataclasses, lists, tuples and dicts are rebuilt."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change) for f in fields(value) if f.init})
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    return value
