"""Batches of windows: inputs, targets and negatives as rows of the pool of distinct items.

Shape letters: see `data.batch`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import Sampling, SequenceBatch, Targets
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.candidates import Candidates, CandidateSampler
from transrec.data.examples.cloze import hide
from transrec.data.examples.negatives import NegativeSampler
from transrec.data.examples.windows import Window

_NEGATIVES, _CANDIDATES, _CLOZE = (
    3,
    5,
    6,
)  # seed components that separate these random numbers from those of order and dropout

Ints = NDArray[np.int64]


class WindowedExamples(Protocol):
    """The part of the examples that batches depend on."""

    max_length: int
    targets: Targets
    popularity: Ints  # (N + 1,)

    @property
    def num_items(self) -> int: ...

    @property
    def sampled(self) -> Ints: ...

    @property
    def negatives(self) -> Ints: ...


class SequenceCollation:
    """Builds the batch of the windows in a run of slots: `collate(step, first_slot, windows)`; None is an empty slot.

    Random numbers depend on (seed, step, slot) only, so a batch is the same on any rank and beside any other batch.
    """

    def __init__(self, examples: WindowedExamples, store: ItemStore, sampling: Sampling, seed: int) -> None:
        self.store, self.sampling, self.seed = store, sampling, seed
        self.max_length, self.sampled, self._of_items = examples.max_length, examples.sampled, examples.targets.of_items
        popularity = np.maximum(examples.popularity, 1)
        self.log_popularity = np.log(popularity / popularity[1:].sum()).astype(np.float32)
        self._candidate_sampler = CandidateSampler(self.sampled, examples.popularity)
        self._negatives_of = NegativeSampler(examples.negatives, examples.targets.size)
        self._in_pool = np.zeros(examples.num_items + 1, bool)  # marked during a call only
        self._row_of = np.zeros(examples.num_items + 1, np.int32)  # for `_RowLookup`

    def __call__(self, step: int, first_slot: int, windows: Sequence[Window | None]) -> SequenceBatch:
        sequences = self._left_padded(windows)
        layout = self._hidden(step, first_slot, sequences) if self.sampling.masked else self._next(windows, sequences)
        inputs, scored = layout.inputs, layout.targets
        negatives = self._negatives(step, first_slot, windows, scored > 0)
        candidates = self._candidates(step)
        # A task's targets have their own table, so the pool holds only the input items.
        items = (inputs, scored, negatives, candidates.items) if self._of_items else (inputs,)
        content = self.store.for_training(self._pool(*items), self.seed, step)
        rows = _RowLookup(content.items.numpy(), self._row_of)
        target_rows = rows if self._of_items else _table_rows
        filled = [w for w in windows if w is not None]
        count = int((scored > 0).sum())
        others = len(filled) + count * self.sampling.negatives if self._of_items else 0
        return SequenceBatch(
            content=content,
            inputs=rows(inputs),
            input_mask=torch.from_numpy(layout.mask),
            targets=target_rows(scored),
            target_mask=torch.from_numpy(scored > 0),
            scored=torch.from_numpy(np.flatnonzero(scored)),
            negatives=target_rows(negatives),
            log_popularity=torch.from_numpy(self.log_popularity[content.items.numpy()]),
            draws=int(layout.mask.sum()) + len(filled),
            owned=self._owned(windows, rows) if self.sampling.owned else None,
            histories=_histories(windows) if self.sampling.across_ranks else None,
            user_ids=[w.user_id for w in filled],
            counts={self.sampling.loss: count},
            occurrences=int(layout.mask.sum()) + others,
            **self._sampled(candidates, content.items.numpy(), rows),
            masked=None if layout.masked is None else torch.from_numpy(layout.masked),
        )

    def _next(self, windows: Sequence[Window | None], sequences: NDArray[np.int64]) -> "_Layout":
        """Layout where each item predicts the next one; the newest `scored` items are targets."""
        inputs, targets = sequences[:, :-1], sequences[:, 1:]
        if self.sampling.positions == "last":
            targets = targets[:, -1:]
        is_target = np.arange(targets.shape[1]) >= targets.shape[1] - np.array(
            [[w.scored if w else 0] for w in windows]
        )
        return _Layout(inputs, inputs > 0, np.where(is_target, targets, 0))

    def _hidden(self, step: int, first_slot: int, sequences: NDArray[np.int64]) -> "_Layout":
        """Layout where some of the newest items are hidden and predicted, even if another window scores them too."""
        inputs = sequences[:, 1:].copy()
        mask, masked, targets = inputs > 0, np.zeros(inputs.shape, bool), np.zeros_like(inputs)
        for row, filled in enumerate(mask):
            if filled.any():
                rng = np.random.default_rng((_CLOZE, self.seed, step, first_slot + row))
                cloze = hide(rng, inputs[row, filled], self.sampling.masked, self.sampled)
                inputs[row, filled], masked[row, filled], targets[row, filled] = cloze
        return _Layout(inputs, mask, targets, masked)

    def _left_padded(self, windows: Sequence[Window | None]) -> NDArray[np.int64]:
        sequences = np.zeros((len(windows), self.max_length + 1), np.int64)
        for row, window in zip(sequences, windows, strict=True):
            if window is not None:
                row[-len(window.sequence) :] = window.sequence
        return sequences

    def _negatives(
        self, step: int, first_slot: int, windows: Sequence[Window | None], scored: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """(B, P, K) catalogue indices, 0 where nothing is scored."""
        drawn = np.zeros((*scored.shape, self.sampling.negatives), np.int64)
        if self.sampling.negatives == 0:
            return drawn
        for row, window in enumerate(windows):
            if window is not None:
                rng = np.random.default_rng((_NEGATIVES, self.seed, step, first_slot + row))
                count = int(scored[row].sum()) * self.sampling.negatives
                own = self._negatives_of(rng, window.own, count)
                drawn[row, scored[row]] = own.reshape(-1, self.sampling.negatives)
        return drawn

    def _candidates(self, step: int) -> Candidates:
        """Candidates of a step; they depend on the step alone, so all parts of a batch share them on every rank."""
        if not self.sampling.candidates:
            return Candidates(self.sampled[:0], 0)
        return self._candidate_sampler(np.random.default_rng((_CANDIDATES, self.seed, step)), self.sampling.candidates)

    def _sampled(self, candidates: Candidates, pool: NDArray[np.int64], rows: "_RowLookup") -> dict[str, Any]:
        """The batch's fields about the candidates, if there are any."""
        if not candidates.draws:
            return {}
        log_inclusion = self._candidate_sampler.log_inclusion(pool, candidates.draws)
        return {"candidates": rows(candidates.items), "log_inclusion": torch.from_numpy(log_inclusion)}

    def _pool(self, *indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.sampling.pool == "catalogue":
            return self.sampled
        distinct = self._marked(indices) if self.sampling.candidates else np.unique(np.concatenate(indices, axis=None))
        distinct = distinct[distinct > 0]
        # An encoder needs at least one item, even if all slots of a rank are empty.
        return distinct if len(distinct) else self.sampled[:1]

    def _marked(self, indices: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The distinct `indices` in order: with a large share of the catalogue, marking costs less than sorting."""
        for index in indices:
            self._in_pool[index] = True
        distinct = np.flatnonzero(self._in_pool)
        self._in_pool[distinct] = False
        return distinct

    def _owned(self, windows: Sequence[Window | None], rows: "_RowLookup") -> torch.Tensor:
        owned = torch.zeros((len(windows), rows.size), dtype=torch.bool)
        for row, window in enumerate(windows):
            if window is not None:
                owned[row, rows.known(window.own)] = True
        return owned


def _histories(windows: Sequence[Window | None]) -> torch.Tensor:
    """(B, H) the items of each user's own training history, ascending after zeros."""
    own = [np.unique([] if window is None else window.own).astype(np.int64) for window in windows]
    histories = np.zeros((len(own), max(1, *map(len, own))), np.int64)
    for row, items in zip(histories, own, strict=True):
        row[len(row) - len(items) :] = items
    return torch.from_numpy(histories)


class _Layout(NamedTuple):
    """Inputs and targets of a batch as catalogue indices; 0 for padding and hidden items."""

    inputs: NDArray[np.int64]  # (B, L)
    mask: NDArray[np.bool_]  # (B, L) true at every item, hidden or not
    targets: NDArray[np.int64]  # (B, P)
    masked: NDArray[np.bool_] | None = None  # (B, L) true where the mask token replaces an item


class _RowLookup:
    """Maps catalogue indices to rows of the pool; padding (0) maps to row 0, and masks hide it.

    `row_of` has an entry for each index of the catalogue. Those of the pool are overwritten, the others keep old rows.
    """

    def __init__(self, items: NDArray[np.int64], row_of: NDArray[np.int32]) -> None:
        self.size = len(items)
        self._items, self._row_of = items, row_of
        row_of[items] = np.arange(self.size, dtype=np.int32)

    def __call__(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._row_of[indices].astype(np.int64))  # index 0, which is in no pool, maps to 0

    def known(self, indices: NDArray[np.int32]) -> torch.Tensor:
        """Rows of the `indices` that are in the pool."""
        rows = np.minimum(self._row_of[indices], self.size - 1)
        return torch.from_numpy(rows[self._items[rows] == indices].astype(np.int64))


def _table_rows(targets: NDArray[np.int64]) -> torch.Tensor:
    """Rows of the target table for the targets 1..K of a task; 0 maps to row 0, and masks hide it."""
    return torch.from_numpy(np.maximum(targets - 1, 0))
