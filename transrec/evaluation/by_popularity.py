"""Results by how often the target occurred in training: never, and thirds of the other questions.

A mean over all users hides whether a model finds anything but popular items. The thirds hold the same number of
questions, except that targets that occurred equally often stay together.

Shape letters: I questions, N items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.metric import Metric
from transrec.evaluation.report import as_json

COLD, THIRDS = "cold", ("rare", "medium", "popular")


def groups(counts: Tensor) -> dict[str, Tensor]:
    """Masks (I,) of the questions in each group; groups without questions are omitted.

    Args:
        counts: (I,) training interactions of each question's target.
    """
    warm = counts[counts > 0]
    found = {COLD: counts == 0}
    if len(warm):
        ends = torch.from_numpy(np.quantile(warm.numpy(), [1 / 3, 2 / 3], method="lower"))
        third = torch.bucketize(counts, ends)  # 0 up to the first end, inclusive
        found |= {name: (counts > 0) & (third == number) for number, name in enumerate(THIRDS)}
    return {name: mask for name, mask in found.items() if mask.any()}


@dataclass(frozen=True)
class Group:
    """The questions of a group: their number and their metrics."""

    questions: int
    estimates: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        return {"questions": self.questions, **as_json(self.estimates)}


def by_popularity(
    columns: Mapping[str, Tensor], popularity: Tensor, metrics: Sequence[Metric], interval: Interval
) -> dict[str, Group]:
    """The metrics of each group.

    Args:
        columns: readings (I,) of all questions, with "target" and "user" among them.
        popularity: (N + 1,) training interactions of each item.
    """
    found = {}
    for name, mask in groups(popularity[columns["target"]]).items():
        users = columns["user"][mask]
        estimates = {m.name: m.estimate([columns[r][mask] for r in m.reads], users, interval) for m in metrics}
        found[name] = Group(len(users), estimates)
    return found


def popularity_table(rows: Mapping[str, Mapping[str, Group]], of: str = "") -> Table:
    """A row for each model, and a column of the first metric for each group.

    Args:
        of: the evaluated users, if they are a sample.
    """
    metric = next(name for groups in rows.values() for group in groups.values() for name in group.estimates)
    sizes = {name: group.questions for groups in rows.values() for name, group in groups.items()}
    view = Table(
        f"{metric} by target" + (f", of {of}" if of else ""), *(f"{name} ({size:,})" for name, size in sizes.items())
    )
    for model, groups_of_model in rows.items():
        view.add_row(model, *(f"{groups_of_model[name].estimates[metric].value:.4f}" for name in sizes))
    return view
