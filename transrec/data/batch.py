"""Batches between the streams and the models: item indices, and the content of every distinct item, held once.

Shape letters: B windows, L input positions, P scored positions (L, or 1 when only the last is scored), K negatives,
S scored positions of all windows, U distinct items of the batch (the pool), M of them with content in a modality,
n items of a chunk, T tokens of a chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from transrec.config import Config

T = TypeVar("T")
ItemSet = Callable[[NDArray[np.integer[Any]]], NDArray[np.bool_]]  # items -> which of them are in the set
Chunk = dict[str, Tensor]  # inputs of one encoder pass, n items first: input_ids and attention_mask (n, T), …


class Sampling(Config):
    """The targets and negatives that an objective needs in a batch."""

    loss: str = Field("loss", description="name of the loss to which the targets belong")
    positions: Literal["all", "last"] = Field("all", description="positions of a window that are scored")
    negatives: int = Field(0, description="number of uniform negatives per scored position")
    pool: Literal["batch", "catalogue"] = Field(
        "batch", description="the distinct items of the batch, or every candidate item"
    )
    owned: bool = Field(False, description="mark pool items of the user's own training history")
    across_ranks: bool = Field(False, description="compare the items in the batches of all ranks")
    candidates: float = Field(
        0.0,
        description="share of the catalogue drawn once for all windows of a step; popular items are drawn more often",
    )
    masked: float = Field(0.0, description="share of a window's items that are hidden and become its targets")
    drawn: int = Field(
        0, description="number of items drawn uniformly, with replacement, for all impressions of a step"
    )
    contrasts: str | None = Field(None, description="name of a loss with a term for each impression that has content")


@dataclass(frozen=True)
class Targets:
    """The vocabulary 1..size that is predicted and ranked."""

    size: int
    of_items: bool = True  # the items of the catalogue; False: a task's targets, whose vectors the model must hold


@dataclass(frozen=True)
class ModalityContent:
    """One modality of the pool, cut into encoder passes. Items without it are in no pass."""

    rows: Tensor  # (M,) int64, pool rows in the order of the chunks
    chunks: list[Chunk]  # contiguous runs of `rows`; none if no item has the modality
    blank: Chunk  # one item: input of a pass that a rank runs only to keep step with the other ranks
    passes: int  # encoder passes every rank runs for this batch; at least one, and at least the number of own chunks


def modality_content(rows: NDArray[np.int64], chunks: list[Chunk], blank: Chunk) -> ModalityContent:
    """Content whose surplus passes repeat the first item, or run on `blank` if there is none."""
    if chunks:
        blank = {name: tensor[:1] for name, tensor in chunks[0].items()}
    return ModalityContent(torch.from_numpy(rows), chunks, blank, passes=max(1, len(chunks)))


@dataclass(frozen=True)
class ItemContent:
    """The distinct items of a batch: pool row u is item `items[u]`."""

    items: Tensor  # (U,) int64, catalogue indices 1..N
    modalities: dict[str, ModalityContent]  # by name; only those that the item encoder reads
    largest: int = 0  # U of the rank with the most items; 0: not agreed on

    @property
    def passes(self) -> list[int]:
        """Encoder passes by modality, in the order of `modalities`."""
        return [modality.passes for modality in self.modalities.values()]

    def with_passes(self, passes: Sequence[int]) -> "ItemContent":
        """The same content with this number of encoder passes for each modality, in the order of `modalities`."""
        pairs = zip(self.modalities.items(), passes, strict=True)
        return replace(self, modalities={name: replace(modality, passes=n) for (name, modality), n in pairs})

    @property
    def tokens(self) -> tuple[int, int]:
        """(tokens of text, tokens computed including padding)."""
        masks = [c["attention_mask"] for m in self.modalities.values() for c in m.chunks if "attention_mask" in c]
        return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)


@dataclass(frozen=True)
class SeenItems:
    """The histories of B users."""

    items: NDArray[np.int64]  # (T,) the histories, concatenated, oldest item first
    lengths: NDArray[np.int64]  # (B,)
    catalogue_size: int  # N
    cold: ItemSet | None = None  # items without interactions in training; None: none


@dataclass(frozen=True)
class SparseScores:
    """The nonzero entries of a matrix of scores, ordered by column and row; no entry occurs twice."""

    rows: Tensor  # (E,) int64
    columns: Tensor  # (E,) int64
    values: Tensor  # (E,) float32


@dataclass(frozen=True)
class SequenceBatch:
    """Training windows of B users, left-padded; all index tensors hold rows of the pool.

    For a task, targets and negatives hold rows of its target table instead.
    """

    content: ItemContent
    inputs: Tensor  # (B, L) int64 pool rows; 0 where padded
    input_mask: Tensor  # (B, L) bool
    targets: Tensor  # (B, P) int64 pool rows
    target_mask: Tensor  # (B, P) bool
    scored: Tensor  # (S,) int64, indices b·P + p of the scored positions, so that no host waits for their number
    negatives: Tensor  # (B, P, K) int64 pool rows
    log_popularity: Tensor  # (U,) float32, log of each pool item's share of training interactions
    draws: int  # item occurrences that the pool was built from
    owned: Tensor | None  # (B, U) bool, see Sampling.owned
    user_ids: list[str]  # of non-empty windows only: some slots are empty, so these do not align with rows
    counts: dict[str, int]  # scored positions by name of loss
    occurrences: int  # items that would be encoded without the pool
    candidates: Tensor | None = None  # (C,) int64 pool rows, the same items for all parts of a step
    log_inclusion: Tensor | None = None  # (U,) float32, log probability that a pool item is among the candidates
    histories: Tensor | None = None  # (B, H) int64, the items of `owned` as catalogue indices, ascending after zeros
    masked: Tensor | None = None  # (B, L) bool, inputs replaced by the mask token
    digest: int = 0  # hash of the windows in the slots; the hashes of the parts of a global batch add up to its own

    @property
    def size(self) -> int:
        """Number of windows."""
        return len(self.user_ids)

    @property
    def positions(self) -> tuple[int, int]:
        """(filled positions of histories, positions computed)."""
        return int(self.input_mask.sum()), self.input_mask.numel()


@dataclass(frozen=True)
class Impressions:
    """B candidates that were shown to users, each with the history before it, over a pool of U distinct items.

    Features hold rows of their vocabularies, 0 for unknown and for padding.
    """

    items: Tensor  # (U,) int64, catalogue indices 1..N
    item_features: dict[str, Tensor]  # by feature, (U, k) int64
    candidates: Tensor  # (B,) int64 pool rows
    history: Tensor  # (B, L) int64 pool rows, right-aligned; 0 where padded
    history_mask: Tensor  # (B, L) bool
    features: dict[str, Tensor]  # of user, context and time, (B, k) int64

    def part(self, start: int, stop: int) -> "Impressions":
        """Impressions start..stop-1, over the same pool."""
        rows = slice(start, stop)
        features = {name: values[rows] for name, values in self.features.items()}
        return replace(
            self,
            candidates=self.candidates[rows],
            history=self.history[rows],
            history_mask=self.history_mask[rows],
            features=features,
        )

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True)
class ImpressionBatch:
    """Impressions to train on, with their labels; empty slots have no observed label."""

    content: ItemContent
    shown: Impressions  # its pool is that of `content`
    labels: Tensor  # (B, H) float32, 0 or 1
    observed: Tensor  # (B, H) bool
    drawn: Tensor  # (K,) int64 pool rows, the same items for all parts of a step
    has_content: Tensor  # (U,) bool, pool items with content in any modality
    user_ids: list[str]  # of filled slots
    counts: dict[str, int]  # terms of each loss
    log_kept: float = 0.0  # logarithm of the share of the impressions without a response that are trained on
    digest: int = 0

    @property
    def size(self) -> int:
        """Number of impressions."""
        return len(self.user_ids)

    @property
    def occurrences(self) -> int:
        """Item slots that would be encoded without the pool."""
        return self.size + int(self.shown.history_mask.sum()) + len(self.drawn)

    @property
    def positions(self) -> tuple[int, int]:
        """(filled positions of histories, positions computed)."""
        return int(self.shown.history_mask.sum()), self.shown.history_mask.numel()


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
