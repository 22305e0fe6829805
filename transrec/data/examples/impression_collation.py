"""Batches of impressions: candidates and histories as rows of the pool of distinct items.

Shape letters: see `data.batch.Impressions`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from transrec.data.batch import ImpressionBatch, Impressions, ItemContent, Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.exposures import Exposures, Histories
from transrec.data.examples.feature_rows import Dropped, FeatureRows, dropped_at
from transrec.data.examples.impression_block import Columns, ImpressionBlock, ImpressionExample
from transrec.data.shards.user_shards import UserBlock
from transrec.features.feature import ContextFeature, UserColumnFeature

Ints = NDArray[np.int64]
_DRAWN = 8  # seed component that separates these random numbers from those of order, dropout and negatives


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
        keep_negatives: float = 1.0,
    ) -> None:
        self.features, self.store, self.sampling, self.seed = features, store, sampling, seed
        self.max_length, self.heads, self.catalogue_size = max_length, heads, catalogue_size
        self.log_kept = math.log(keep_negatives)

    def __call__(self, step: int, first_slot: int, impressions: Sequence[ImpressionExample | None]) -> ImpressionBatch:
        columns = Columns.of_slots(impressions, self.max_length, len(self.heads), self.features.of_shown)
        drawn = self._drawn(step)
        pool = distinct_items(columns, drawn)
        content = self.store.for_training(pool, self.seed, step)
        has_content, observed = _has_content(content), ~np.isnan(columns.labels)
        shown = over_pool(columns, pool, self.features, dropped_at(self.seed, step))
        counts = dict(zip(self.heads, observed.sum(0).tolist(), strict=True))
        if self.sampling.contrasts:
            counts[self.sampling.contrasts] = int(has_content[shown.candidates[columns.candidates > 0]].sum())
        return ImpressionBatch(
            content=content,
            shown=shown,
            labels=torch.from_numpy(np.nan_to_num(columns.labels)),
            observed=torch.from_numpy(observed),
            drawn=_rows(pool, drawn),
            has_content=has_content,
            user_ids=[impression.user_id for impression in impressions if impression is not None],
            counts=counts,
            log_kept=self.log_kept,
        )

    def _drawn(self, step: int) -> Ints:
        """The items drawn for a step, the same for all of its parts."""
        rng = np.random.default_rng((_DRAWN, self.seed, step))
        return rng.integers(1, self.catalogue_size + 1, self.sampling.drawn)


def distinct_items(columns: Columns, drawn: Ints | None = None) -> Ints:
    """Distinct catalogue indices of candidates, histories and drawn items, ascending; item 1 if there are none."""
    parts = [columns.candidates, columns.history.ravel(), *([] if drawn is None else [drawn])]
    occurs = np.zeros(1 + max(int(part.max(initial=1)) for part in parts), bool)  # marking is faster than sorting
    for part in parts:
        occurs[part] = True
    occurs[0] = False
    occurs[1] |= not occurs.any()
    return np.flatnonzero(occurs)


def over_pool(columns: Columns, pool: Ints, features: FeatureRows, dropped: Dropped | None = None) -> Impressions:
    """Impressions over a pool that holds all of their items.

    Args:
        pool: (U,) catalogue indices, ascending.
        dropped: which ids count as unknown.
    """
    return Impressions(
        items=torch.from_numpy(pool),
        item_features=_tensors(features.of_pool(pool, dropped)),
        candidates=_rows(pool, columns.candidates),
        history=_rows(pool, columns.history),
        history_mask=torch.from_numpy(columns.history > 0),
        features=_tensors(features.with_unknown(columns.features, dropped)),
    )


class Impression(NamedTuple):
    """An item that is shown to a user who need not be in the shards."""

    user_id: str
    place: int
    item: int
    time: int  # seconds since 1970
    history: NDArray[np.int32]  # items of the user's earlier interactions, oldest first
    labels: NDArray[np.float32]  # (H,)
    context: Mapping[str, str | None]
    profile: Mapping[str, str | None]
    shown_with: int = 1  # number of items in its request


def columns_of(impressions: Sequence[Impression], features: FeatureRows, max_length: int) -> Columns:
    """Impressions outside the shards; columns may be missing."""
    lengths = [len(impression.history) for impression in impressions]
    offsets, users = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.arange(len(impressions))
    items = np.concatenate([impression.history for impression in impressions]).astype(np.int32)
    before = Histories(offsets, items, np.full(len(items), np.iinfo(np.int64).min))  # earlier than any time
    context, profile = _columns(impressions, features)
    shown = Exposures(
        users,
        np.array([impression.item for impression in impressions], np.int64),
        np.array([impression.time for impression in impressions], np.int64),
        users,
        np.stack([impression.labels for impression in impressions]),
        context,
        before,
        np.array([impression.shown_with for impression in impressions], np.int64),
    )
    ids = pa.array([impression.user_id for impression in impressions], pa.string())
    nothing = np.full(len(items), np.nan, np.float32)
    block = UserBlock(ids, offsets, items, before.times, nothing, pa.record_batch(profile), shown=None)
    shown_now = ImpressionBlock(block, shown, np.zeros(len(users), np.int8), features.of_block(block, shown))
    return Columns.of(shown_now, users, max_length)


def _columns(
    impressions: Sequence[Impression], features: FeatureRows
) -> tuple[dict[str, pa.StringArray], dict[str, pa.StringArray]]:
    """The columns of context and profile that the features read."""
    context, profile = {}, {}
    for feature in features.settings.values():
        if isinstance(feature, ContextFeature):
            values = [i.context.get(feature.column, feature.when_serving) for i in impressions]
            context[feature.column] = pa.array(values, pa.string())
        elif isinstance(feature, UserColumnFeature):
            profile[feature.column] = pa.array([i.profile.get(feature.column) for i in impressions], pa.string())
    return context, profile


def _rows(pool: Ints, items: Ints) -> torch.Tensor:
    """Rows of the pool; padding (0) has row 0, and masks hide it."""
    rows = np.empty(1 + pool[-1], np.int64)  # only what is written is read
    rows[0], rows[pool] = 0, np.arange(len(pool))
    return torch.from_numpy(rows[items])


def _tensors(rows: Mapping[str, Ints]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in rows.items()}


def _has_content(content: ItemContent) -> torch.Tensor:
    """(U,) bool."""
    found = torch.zeros_like(content.items, dtype=torch.bool)
    for modality in content.modalities.values():
        found[modality.rows] = True
    return found
