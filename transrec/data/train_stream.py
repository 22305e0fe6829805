"""Training batches by step number: `stream[step]` is a pure function, so resuming is starting at another number.

The designs considered for the interface were an iterator with `state_dict` (webdataset, torchdata) and random access by
step. The second needs no state but the step, gives the same batches for any number of loader workers (the loader deals
out step numbers in order), and answers afterwards who was in a step.
"""

import hashlib
import signal
from collections.abc import Generator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from transrec.data.batch import Sampling, SequenceBatch
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.candidates import Candidates, CandidateSampler
from transrec.data.examples.cloze import hide
from transrec.data.examples.interactions import Interactions
from transrec.data.examples.negatives import NegativeSampler
from transrec.data.examples.windows import Windows
from transrec.data.order import EpochOrder
from transrec.data.shards.user_shards import CACHED_BLOCKS, UserBlock
from transrec.errors import TransRecError

_NEGATIVES, _CANDIDATES, _CLOZE = 3, 5, 6  # what random numbers are for, beside those of the order and of dropout


class Window(NamedTuple):
    """One slot of a batch: up to L + 1 consecutive items, the newest `scored` of them targets; all the user's items.

    Of a task: up to L items, one target of its own vocabulary behind them; all the user's targets.
    """

    user_id: str
    start: int
    items: NDArray[np.int32]
    scored: int
    own: NDArray[np.int32]
    target: int = 0  # none: the next item is predicted

    @property
    def sequence(self) -> NDArray[np.int32]:
        """What is looked at, oldest first, targets included."""
        return np.append(self.items, np.int32(self.target)) if self.target else self.items


class TrainStream(Dataset[list[SequenceBatch]]):
    """`stream[step]`: the micro-batches of this rank for a global step, deterministic in (seed, step).

    The `batch_size` slots of a step go to ranks, and a rank's to its `accumulation` micro-batches, in contiguous runs.
    """

    def __init__(
        self,
        interactions: Interactions,
        store: ItemStore,
        sampling: Sampling,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.interactions, self.store, self.sampling = interactions, store, sampling
        self.seed, self.batch_size = seed, batch_size
        self.micro_batch_size = batch_size // (world_size * accumulation)
        self.first_slot, self.accumulation = rank * batch_size // world_size, accumulation
        self.order = EpochOrder(np.array(interactions.window_counts), interactions.shards.block_shard, batch_size, seed)
        popularity = np.maximum(interactions.popularity, 1)
        self.log_popularity = np.log(popularity / popularity[1:].sum()).astype(np.float32)
        self.sampled = interactions.sampled
        self._candidate_sampler = CandidateSampler(self.sampled, interactions.popularity)
        self._negatives_of = NegativeSampler(*interactions.negatives)
        self._cut = lru_cache(maxsize=CACHED_BLOCKS)(self._cut_block)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_cut"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._cut = lru_cache(maxsize=CACHED_BLOCKS)(self._cut_block)

    def __len__(self) -> int:
        """Steps of one epoch; `stream[step]` takes any step, later epochs follow on."""
        return self.order.steps_per_epoch

    def __getitem__(self, step: int) -> list[SequenceBatch]:
        runs = [self.first_slot + i * self.micro_batch_size for i in range(self.accumulation)]
        return [self._collate(step, first, self.windows(step, first, first + self.micro_batch_size)) for first in runs]

    def windows(self, step: int, first: int = 0, stop: int | None = None) -> list[Window | None]:
        """What fills the slots [first, stop) of a step; None where the end of an epoch leaves a slot empty."""
        return [
            self._window(int(block), int(within)) if block >= 0 else None
            for block, within in self.order.slots(step, first, stop)
        ]

    def _window(self, number: int, within: int) -> Window:
        block, cut = self._cut(number)
        user, start, stop, scored, target = (int(column[within]) for column in cut)
        history, labels = block.history(user), self.interactions.labels
        own = history[: self.interactions.train_stops[number][user]]
        if labels is not None:
            own = labels.of_user(number, user)
        return Window(block.user_ids[user].as_py(), start, history[start:stop], scored, own, target)

    def _cut_block(self, number: int) -> tuple[UserBlock, Windows]:
        """Cached: a block fills slots of many steps, and to cut all its windows costs far more than to take one."""
        return self.interactions.block(number), self.interactions.windows(number)

    def _collate(self, step: int, first_slot: int, windows: list[Window | None]) -> SequenceBatch:
        sequences = self._left_padded(windows)
        layout = self._hidden(step, first_slot, sequences) if self.sampling.masked else self._next(windows, sequences)
        inputs, scored = layout.inputs, layout.targets
        negatives = self._negatives(step, first_slot, windows, scored > 0)
        candidates = self._candidates(step)
        of_a_task = self.interactions.labels is not None
        items = (inputs,) if of_a_task else (inputs, scored, negatives, candidates.items)
        content = self.store.for_training(self._pool(*items), self.seed, step)
        rows = _RowLookup(content.items.numpy())
        target_rows = _table_rows if of_a_task else rows
        return SequenceBatch(
            content=content,
            inputs=rows(inputs),
            input_mask=torch.from_numpy(layout.mask),
            targets=target_rows(scored),
            target_mask=torch.from_numpy(scored > 0),
            negatives=target_rows(negatives),
            log_popularity=torch.from_numpy(self.log_popularity[content.items.numpy()]),
            draws=int(layout.mask.sum()) + sum(w is not None for w in windows),
            owned=self._owned(windows, rows) if self.sampling.owned else None,
            user_ids=[w.user_id for w in windows if w is not None],
            **self._sampled(candidates, content.items.numpy(), rows),
            masked=None if layout.masked is None else torch.from_numpy(layout.masked),
            of_a_task=of_a_task,
            digest=_digest(first_slot, windows),
        )

    def _next(self, windows: list[Window | None], sequences: NDArray[np.int64]) -> "_Layout":
        """Each item predicts the one behind it; the newest `scored` of them are targets."""
        inputs, targets = sequences[:, :-1], sequences[:, 1:]
        if self.sampling.positions == "last":
            targets = targets[:, -1:]
        is_target = np.arange(targets.shape[1]) >= targets.shape[1] - np.array(
            [[w.scored if w else 0] for w in windows]
        )
        return _Layout(inputs, inputs > 0, np.where(is_target, targets, 0))

    def _hidden(self, step: int, first_slot: int, sequences: NDArray[np.int64]) -> "_Layout":
        """Some of the newest items are to be found again where they were, whether or not others score them too."""
        inputs = sequences[:, 1:].copy()
        mask, masked, targets = inputs > 0, np.zeros(inputs.shape, bool), np.zeros_like(inputs)
        for row, filled in enumerate(mask):
            if filled.any():
                rng = np.random.default_rng((_CLOZE, self.seed, step, first_slot + row))
                cloze = hide(rng, inputs[row, filled], self.sampling.masked, self.sampled)
                inputs[row, filled], masked[row, filled], targets[row, filled] = cloze
        return _Layout(inputs, mask, targets, masked)

    def _left_padded(self, windows: list[Window | None]) -> NDArray[np.int64]:
        sequences = np.zeros((len(windows), self.interactions.max_length + 1), np.int64)
        for row, window in zip(sequences, windows, strict=True):
            if window is not None:
                row[-len(window.sequence) :] = window.sequence
        return sequences

    def _negatives(
        self, step: int, first_slot: int, windows: list[Window | None], scored: NDArray[np.bool_]
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
        """They follow from the step alone: parts of a batch, on whichever rank, share them."""
        if not self.sampling.candidates:
            return Candidates(self.sampled[:0], 0)
        return self._candidate_sampler(np.random.default_rng((_CANDIDATES, self.seed, step)), self.sampling.candidates)

    def _sampled(self, candidates: Candidates, pool: NDArray[np.int64], rows: "_RowLookup") -> dict[str, Any]:
        """What the batch says of the candidates, if there are any."""
        if not candidates.draws:
            return {}
        log_inclusion = self._candidate_sampler.log_inclusion(pool, candidates.draws)
        return {"candidates": rows(candidates.items), "log_inclusion": torch.from_numpy(log_inclusion)}

    def _pool(self, *indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.sampling.pool == "catalogue":
            return self.sampled
        distinct = np.unique(np.concatenate([index.ravel() for index in indices]))
        distinct = distinct[distinct > 0]
        # An encoder needs something to encode even where a rank's slots are all empty.
        return distinct if len(distinct) else self.sampled[:1]

    def _owned(self, windows: list[Window | None], rows: "_RowLookup") -> torch.Tensor:
        owned = torch.zeros((len(windows), rows.size), dtype=torch.bool)
        for row, window in enumerate(windows):
            if window is not None:
                owned[row, rows.known(window.own)] = True
        return owned


class _Layout(NamedTuple):
    """Catalogue indices, 0 where there is nothing, or a hidden item."""

    inputs: NDArray[np.int64]  # (B, L)
    mask: NDArray[np.bool_]  # (B, L) where an item is, hidden or not
    targets: NDArray[np.int64]  # (B, P)
    masked: NDArray[np.bool_] | None = None  # (B, L) where a token stands for it


class _RowLookup:
    """Catalogue indices -> rows of the pool; padding (0) goes to row 0, where masks hide it."""

    def __init__(self, items: NDArray[np.int64]) -> None:
        self.size = len(items)
        self._order = np.argsort(items)
        self._sorted = items[self._order]

    def __call__(self, indices: NDArray[np.int64]) -> torch.Tensor:
        place = np.searchsorted(self._sorted, indices.ravel())
        rows = np.where(indices.ravel() > 0, self._order[np.minimum(place, self.size - 1)], 0)
        return torch.from_numpy(rows.reshape(indices.shape))

    def known(self, indices: NDArray[np.int32]) -> torch.Tensor:
        """Rows of those `indices` that are in the pool."""
        place = np.minimum(np.searchsorted(self._sorted, indices), self.size - 1)
        return torch.from_numpy(self._order[place[self._sorted[place] == indices]])


def _table_rows(targets: NDArray[np.int64]) -> torch.Tensor:
    """Targets 1..K of a task -> rows of their table; nothing (0) goes to row 0, where masks hide it."""
    return torch.from_numpy(np.maximum(targets - 1, 0))


def _digest(first_slot: int, windows: list[Window | None]) -> int:
    """A number that tells which windows lie in which slots; the digest of a global batch is the sum over its parts."""
    total = 0
    for slot, window in enumerate(windows, start=first_slot):
        if window is not None:
            target = f"\0{window.target}" if window.target else ""
            text = f"{slot}\0{window.user_id}\0{window.start}{target}".encode()
            total += int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "little")
    return total


def load_steps(stream: TrainStream, start: int, stop: int, workers: int) -> Generator[list[SequenceBatch]]:
    """Batches of the global steps [start, stop), prepared ahead by `workers` processes (0: in this one).

    Close it to end the processes: they ignore signals, so a Python that exits would wait for them.
    """
    loader = DataLoader(
        _Answers(stream),
        sampler=range(start, stop),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    answers = iter(loader)
    try:
        for answer in answers:
            yield _batches(answer)
    finally:
        del answers  # its last reference: an error that is kept somewhere keeps this frame


class _Answers(Dataset["list[SequenceBatch] | TransRecError"]):
    """The stream with errors as values: raised in a loader process, they would come back inside a traceback."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> list[SequenceBatch] | TransRecError:
        try:
            return self.stream[step]
        except TransRecError as error:
            return error


def _batches(answer: list[SequenceBatch] | TransRecError) -> list[SequenceBatch]:
    if isinstance(answer, TransRecError):
        raise answer
    return answer


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Launchers, schedulers and terminals signal every process; a loader that died would fail the last save."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(answer: list[SequenceBatch] | TransRecError) -> list[SequenceBatch] | TransRecError:
    return answer
