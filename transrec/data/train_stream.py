"""Training batches by step number: `stream[step]` is a pure function, so a run can resume at any step.

Designs considered for the interface: an iterator with `state_dict` (webdataset, torchdata), and random access by step.
Chosen: the second. It needs no state but the step, gives the same batches for any number of loader workers (the loader
hands out step numbers in order), and can list the users of a step afterwards.
"""

import hashlib
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transrec.data.batch import map_tensors
from transrec.data.order import EpochOrder
from transrec.errors import TransRecError
from transrec.protocols import Batch, Collation, Example, Examples


class TrainStream(Dataset[list[Batch]]):
    """`stream[step]`: the micro-batches of this rank for a global step, deterministic in (seed, step).

    The `batch_size` slots of a step are divided into `accumulation` contiguous runs, and each run among the ranks, so
    that micro-batch n of all ranks together holds the same examples, however many ranks there are. The stream handles
    order and slots; the examples fill slots and make batches.

    Args:
        collate: makes the batch for a run of slots.
    """

    def __init__(
        self,
        examples: Examples,
        collate: Collation,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.examples, self.collate = examples, collate
        self.seed, self.batch_size = seed, batch_size
        self.micro_batch_size = batch_size // (world_size * accumulation)
        self.first_slots = [(i * world_size + rank) * self.micro_batch_size for i in range(accumulation)]
        self.order = EpochOrder(np.array(examples.counts), examples.block_shard, batch_size, seed)

    def __len__(self) -> int:
        """Steps of one epoch; `stream[step]` accepts any step, including later epochs."""
        return self.order.steps_per_epoch

    def __getitem__(self, step: int) -> list[Batch]:
        size = self.micro_batch_size
        return [self._batch(step, first, self.slots(step, first, first + size)) for first in self.first_slots]

    def slots(self, step: int, first: int = 0, stop: int | None = None) -> list[Any]:
        """The examples in the slots [first, stop) of a step; None for an empty slot."""
        return [
            self.examples.example(int(block), int(within)) if block >= 0 else None
            for block, within in self.order.slots(step, first, stop)
        ]

    def epoch_of(self, step: int) -> int:
        """The epoch that a global step belongs to."""
        return self.order.epoch_of(step)[0]

    def load(self, start: int, stop: int, workers: int) -> Generator[list[Batch]]:
        """Batches of the global steps [start, stop), prepared ahead by `workers` processes (0: in this one).

        Close the generator to end the processes: they ignore signals, so Python would wait for them at exit.
        """
        loader = DataLoader(
            _Answers(self),
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
                if answer.error is not None:
                    raise answer.error
                yield answer.batches
        finally:
            del answers  # the last reference: a stored exception would keep this frame alive

    def _batch(self, step: int, first_slot: int, examples: Sequence[Example | None]) -> Batch:
        found: Batch = replace(self.collate(step, first_slot, examples), digest=digest(first_slot, examples))
        return found


def digest(first_slot: int, examples: Sequence[Example | None]) -> int:
    """A hash of which examples lie in which slots; the hash of a global batch is the sum over its parts."""
    total = 0
    for slot, example in enumerate(examples, start=first_slot):
        if example is not None:
            text = f"{slot}\0{example.key}".encode()
            total += int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "little")
    return total


@dataclass(frozen=True)
class _Answer:
    """The batches of a step, or the error raised instead."""

    batches: list[Batch]
    error: TransRecError | None = None

    def pin_memory(self) -> "_Answer":
        """A copy in pinned memory. The loader calls this method, so batches need none of their own."""
        found: _Answer = map_tensors(self, Tensor.pin_memory)
        return found


class _Answers(Dataset[_Answer]):
    """The stream with errors as values: an error raised in a loader process would arrive inside a traceback."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> _Answer:
        try:
            return _Answer(self.stream[step])
        except TransRecError as error:
            return _Answer([], error)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore signals: launchers and terminals signal every process, and a dead loader would fail the last save."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(answer: Any) -> Any:
    return answer
