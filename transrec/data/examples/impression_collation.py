"""Batches of impressions: candidates and histories as rows of the pool of distinct items.

Shape letters: see `data.batch.Impressions`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import ImpressionBatch, Impressions, ItemContent, Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.feature_rows import Dropped, FeatureRows, dropped_at

Ints = NDArray[np.int64]
_DRAWN = 8  # seed component that separates these random numbers from those of order, dropout and negatives


class Impression(NamedTuple):
    """An item that was shown to a user, and what the user did before."""

    user_id: str
    place: int  # among the impressions of the user's block
    item: int
    time: int  # seconds since 1970
    history: NDArray[np.int32]  # all of it, oldest first
    labels: NDArray[np.float32]  # (H,) 0 or 1; NaN where it was not observed
    context: Mapping[str, str | None]
    profile: Mapping[str, str | None]

    @property
    def key(self) -> str:
        """Unique among the examples of a run."""
        return f"{self.user_id}\0{self.place}"


class ImpressionCollation:
    """Builds the batch of the impressions in a run of slots: `collate(step, first_slot, impressions)`; None is empty.

    Random numbers depend on (seed, step) and on the user or item, so a batch is the same on any rank.
    """

    def __init__(
        self,
        features: FeatureRows,
        store: ItemStore,
        sampling: Sampling,
        seed: int,
        max_length: int,
        heads: Sequence[str],
        catalogue_size: int,
    ) -> None:
        self.features, self.store, self.sampling, self.seed = features, store, sampling, seed
        self.max_length, self.heads, self.catalogue_size = max_length, heads, catalogue_size

    def __call__(self, step: int, first_slot: int, impressions: Sequence[Impression | None]) -> ImpressionBatch:
        filled = [i for i in impressions if i is not None]
        drawn = self._drawn(step)
        used = [[i.item for i in filled], drawn, *(i.history[-self.max_length :] for i in filled)]
        pool = np.unique(np.concatenate([np.asarray(items, np.int64) for items in used]))
        content = self.store.for_training(pool if len(pool) else np.ones(1, np.int64), self.seed, step)
        items = content.items.numpy()
        labels = np.full((len(impressions), len(self.heads)), np.nan, np.float32)
        for slot, impression in enumerate(impressions):
            if impression is not None:
                labels[slot] = impression.labels
        shown = gathered(impressions, items, self.features, self.max_length, dropped_at(self.seed, step))
        has_content = _has_content(content)
        observed = ~np.isnan(labels)
        counts = dict(zip(self.heads, observed.sum(0).tolist(), strict=True))
        if self.sampling.contrasts:
            rows = shown.candidates[[i is not None for i in impressions]]
            counts[self.sampling.contrasts] = int(has_content[rows].sum())
        return ImpressionBatch(
            content=content,
            shown=shown,
            labels=torch.from_numpy(np.nan_to_num(labels)),
            observed=torch.from_numpy(observed),
            drawn=torch.from_numpy(np.searchsorted(items, drawn)),
            has_content=has_content,
            user_ids=[i.user_id for i in filled],
            counts=counts,
        )

    def _drawn(self, step: int) -> Ints:
        """Items drawn for all parts of a step alike."""
        rng = np.random.default_rng((_DRAWN, self.seed, step))
        return rng.integers(1, self.catalogue_size + 1, self.sampling.drawn)


def gathered(
    impressions: Sequence[Impression | None],
    pool: Ints,
    features: FeatureRows,
    max_length: int,
    dropped: Dropped | None = None,
) -> Impressions:
    """The impressions over a pool of items that holds all of theirs; an empty slot has no history and no features.

    Args:
        pool: (U,) catalogue indices, ascending.
        dropped: which ids count as unknown.
    """
    filled = [_EMPTY if impression is None else impression for impression in impressions]
    history = np.zeros((len(filled), max_length), np.int64)
    for row, impression in zip(history, filled, strict=True):
        newest = impression.history[-max_length:]
        row[max_length - len(newest) :] = newest
    candidates = np.array([impression.item for impression in filled], np.int64)
    return Impressions(
        items=torch.from_numpy(pool),
        item_features=_tensors(features.of_pool(pool, dropped)),
        candidates=_rows(pool, candidates),
        history=_rows(pool, history),
        history_mask=torch.from_numpy(history > 0),
        features=_tensors(features.of_impressions(filled, dropped)),
    )


_EMPTY = Impression("", 0, 0, 0, np.zeros(0, np.int32), np.zeros(0, np.float32), {}, {})


def _rows(pool: Ints, items: Ints) -> torch.Tensor:
    """Rows of the pool; padding (0) has row 0, and masks hide it."""
    return torch.from_numpy(np.where(items > 0, np.searchsorted(pool, items), 0))


def _tensors(rows: Mapping[str, Ints]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in rows.items()}


def _has_content(content: ItemContent) -> torch.Tensor:
    """(U,) bool."""
    found = torch.zeros_like(content.items, dtype=torch.bool)
    for modality in content.modalities.values():
        found[modality.rows] = True
    return found
