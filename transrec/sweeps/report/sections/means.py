"""Means of every setting and of the baselines, with intervals."""

import json
import math
from collections.abc import Mapping
from typing import Any

from transrec.evaluation.metrics import metric
from transrec.sweeps.analysis.resampling import mean_interval
from transrec.sweeps.analysis.results import Setting
from transrec.sweeps.report.draft import NONE, Draft
from transrec.sweeps.report.page import Heading, Table


def add_means(draft: Draft) -> None:
    """Add a row for every setting; settings with the same test are followed by its baselines."""
    axes = list(draft.results.varying)
    alike: dict[str, list[tuple[Setting, list[int]]]] = {}
    for setting, numbers in draft.by_size(draft.results.groups()):
        of_first = draft.results.outcomes[numbers[0]]
        key = json.dumps([[dict(setting).get(axis) for axis in draft.results.task_axes], of_first.baselines])
        alike.setdefault(key, []).append((setting, numbers))
    rows: list[list[str]] = []
    for settings in alike.values():
        baselines = draft.results.outcomes[settings[0][1][0]].baselines
        rows += [_mean_row(draft, setting, numbers, baselines) for setting, numbers in settings]
        common = dict(set.intersection(*(set(setting) for setting, _ in settings)))
        free = next((axis for axis in axes if axis not in common), None)
        for name, values in baselines.items():
            labels = [name if axis == free else str(common.get(axis, NONE)) for axis in axes]
            rows.append([*labels, *(_baseline_cell(values, measure) for measure in draft.measured), NONE, NONE])
    header = [*axes, *draft.measured, "seeds", f"behind in {draft.quality}"]
    draft.blocks += [Heading(f"Means{draft.results.sample}"), Table(header, rows)]


def _mean_row(
    draft: Draft, setting: Setting, numbers: list[int], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    cells, labels = [], [NONE if value is None else str(value) for _, value in setting]
    for measured in draft.measured.values():
        cell = measured.values.of(numbers)
        low, high = mean_interval(cell)
        cells.append(f"{cell.values.mean():.4f} [{low:.4f}, {high:.4f}]")
    quality = float(draft.measured[draft.quality].values.of(numbers).values.mean())
    better = metric(draft.quality).improves
    ahead = [name for name, values in baselines.items() if better(values.get(draft.quality, math.nan), quality)]
    return [*labels, *cells, str(len(numbers)), ", ".join(ahead) or NONE]


def _baseline_cell(values: Mapping[str, Any], measure: str) -> str:
    if measure not in values:
        return NONE
    low, high = values[f"{measure}_interval"]
    return f"{values[measure]:.4f} [{low:.4f}, {high:.4f}]"
