"""The pass over the questions of all ranks, independent of the kind of question.

Shape letters: B questions of a batch, I questions of all batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from transrec.distributed.world import World
from transrec.evaluation.readings import Reading


class Asked(Protocol):
    """A batch of questions of any kind."""

    @property
    def users(self) -> Tensor: ...  # (B,) a number for each user


Context = TypeVar("Context")
Questions = TypeVar("Questions", bound=Asked)
Answers = TypeVar("Answers")


Join = Callable[[Sequence[Questions], Sequence[Answers]], tuple[Questions, Answers]]

_QUESTIONS_AT_ONCE = 1024


def measure(
    batches: Iterable[Questions | None],
    answer: Callable[[Questions | None], Answers],
    readings: Mapping[str, Reading[Context, Questions, Answers]],
    context: Context,
    world: World,
    join: Join[Questions, Answers] | None = None,
) -> dict[str, Tensor]:
    """Each reading of every question, (I,), in the order of the data on every rank.

    Args:
        batches: this rank's batches, numbers `world.rank`, `world.rank + world.size`, … of all; None for a batch
            without questions. All ranks have the same number of batches.
        answer: called for every batch, including None, because under ZeRO-3 all ranks must run the encoder.
        join: joins several batches, and their answers, into one, so that about 1,024 questions are measured at a time;
            None: each batch is measured by itself.
    """
    rows = [torch.zeros((0, 1 + len(readings)), dtype=torch.float64)]
    waiting: list[tuple[Tensor, Questions, Answers]] = []  # the number of the batch for each question, and the batch

    def read() -> None:
        if waiting:
            numbers, asked, answers = zip(*waiting, strict=True)
            batch = (asked[0], answers[0]) if join is None or len(waiting) == 1 else join(asked, answers)
            values = [reading.measure(context, *batch).cpu().double() for reading in readings.values()]
            rows.append(torch.stack([torch.cat(numbers), *values], 1))
            waiting.clear()

    for turn, asked in enumerate(batches):
        answers = answer(asked)
        if asked is not None:
            number = float(turn * world.size + world.rank)
            waiting.append((torch.full((len(asked.users),), number, dtype=torch.float64), asked, answers))
            if join is None or sum(len(numbers) for numbers, *_ in waiting) >= _QUESTIONS_AT_ONCE:
                read()
    read()
    everyone = world.gather_rows(torch.cat(rows).to(world.device)).cpu()
    numbers, *columns = everyone.unbind(1)
    in_order = torch.argsort(numbers, stable=True)
    return {
        name: column[in_order].to(reading.dtype)
        for (name, reading), column in zip(readings.items(), columns, strict=True)
    }
