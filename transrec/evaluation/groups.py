"""Results by group of questions: by how often the target occurred in training, and by whether the user did.

A mean over all users hides whether a model finds anything but popular items, and whether it serves new users.

Shape letters: I questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.metric import Metric
from transrec.evaluation.report import as_json

COLD, THIRDS = "cold", ("rare", "medium", "popular")
OF_GROUPING = {"by_popularity": "target", "by_user": "user"}  # what groups the questions

Groups = Mapping[str, "Group"]  # by name of the group


def by_popularity(counts: Tensor) -> dict[str, Tensor]:
    """Masks (I,) of the questions whose target never occurred in training, and of thirds of the other questions.

    The thirds hold the same number of questions, except that targets with the same count stay together.

    Args:
        counts: (I,) training interactions of each question's target.
    """
    warm = counts[counts > 0]
    found = {COLD: counts == 0}
    if len(warm):
        ends = torch.from_numpy(np.quantile(warm.numpy(), [1 / 3, 2 / 3], method="lower"))
        third = torch.bucketize(counts, ends)  # 0 up to the first end, inclusive
        found |= {name: (counts > 0) & (third == number) for number, name in enumerate(THIRDS)}
    return _filled(found)


def by_user(known: Tensor) -> dict[str, Tensor]:
    """Masks (I,) of the questions of users with training examples, and of those without.

    Args:
        known: (I,) whether each question's user has training examples.
    """
    return _filled({"known": known, "new": ~known})


def _filled(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask for name, mask in masks.items() if mask.any()}


@dataclass(frozen=True)
class Group:
    """The questions of a group: their number and their metrics."""

    questions: int
    estimates: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        return {"questions": self.questions, **as_json(self.estimates)}


def within(
    masks: Mapping[str, Tensor], columns: Mapping[str, Tensor], metrics: Sequence[Metric], interval: Interval
) -> dict[str, Group]:
    """The metrics of each group.

    Args:
        masks: (I,) the questions in each group.
        columns: readings (I,) of all questions, with "user" among them.
    """
    found = {}
    for name, mask in masks.items():
        users = columns["user"][mask]
        estimates = {m.name: m.estimate([columns[r][mask] for r in m.reads], users, interval) for m in metrics}
        found[name] = Group(len(users), estimates)
    return found


def groups_as_json(groups: Groups) -> dict[str, dict[str, Any]]:
    """`{"cold": {"questions": 12, "HR@10": value, "HR@10_interval": [low, high], …}, …}`."""
    return {name: group.as_json() for name, group in groups.items()}


def of_each(models: Mapping[str, Mapping[str, Groups]]) -> dict[str, dict[str, Groups]]:
    """Turn groups by model and grouping into groups by grouping and model."""
    groupings = dict.fromkeys(grouping for found in models.values() for grouping in found)
    return {by: {name: found[by] for name, found in models.items() if by in found} for by in groupings}


def group_table(grouping: str, rows: Mapping[str, Groups], of: str = "") -> Table:
    """A row for each model, and a column of the first metric for each group.

    Args:
        grouping: a key of `OF_GROUPING`.
        of: the evaluated users, if they are a sample.
    """
    metric = next(name for groups in rows.values() for group in groups.values() for name in group.estimates)
    sizes = {name: group.questions for groups in rows.values() for name, group in groups.items()}
    view = Table(
        f"{metric} by {OF_GROUPING[grouping]}" + (f", of {of}" if of else ""),
        *(f"{name} ({size:,})" for name, size in sizes.items()),
    )
    for model, groups_of_model in rows.items():
        view.add_row(model, *(_cell(groups_of_model[name].estimates[metric].value) for name in sizes))
    return view


def _cell(value: float) -> str:
    return "undefined" if isnan(value) else f"{value:.4f}"
