"""The pass over the questions of all ranks, independent of the kind of question.

Shape letters: B questions of a batch, I questions of all batches.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from transrec.distributed.world import World
from transrec.evaluation.readings import Reading

Context = TypeVar("Context")
Questions = TypeVar("Questions")
Answers = TypeVar("Answers")


def measure(
    batches: Iterable[Questions | None],
    answer: Callable[[Questions | None], Answers],
    readings: Mapping[str, Reading[Context, Questions, Answers]],
    context: Context,
    world: World,
) -> dict[str, Tensor]:
    """Each reading of every question, (I,), in the order of the data on every rank.

    Args:
        batches: this rank's batches, numbers `world.rank`, `world.rank + world.size`, … of all; None for a batch
            without questions. All ranks have equally many.
        answer: called for every batch, including None, because under ZeRO-3 all ranks must run the encoder.
    """
    rows = [torch.zeros((0, 1 + len(readings)), dtype=torch.float64)]
    for turn, asked in enumerate(batches):
        answers = answer(asked)
        if asked is not None:
            values = [reading.measure(context, asked, answers).cpu().double() for reading in readings.values()]
            number = torch.full_like(values[0], turn * world.size + world.rank)
            rows.append(torch.stack([number, *values], 1))
    everyone = world.gather_rows(torch.cat(rows).to(world.device)).cpu()
    numbers, *columns = everyone.unbind(1)
    in_order = torch.argsort(numbers, stable=True)
    return {
        name: column[in_order].to(reading.dtype)
        for (name, reading), column in zip(readings.items(), columns, strict=True)
    }
