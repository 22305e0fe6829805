"""Costs of every setting: trained parameters, seconds, weights saved, and peak memory."""

from collections.abc import Callable, Sequence

import numpy as np

from transrec.sweeps.analysis.results import Outcome
from transrec.sweeps.report.draft import NONE, Draft
from transrec.sweeps.report.page import Heading, Paragraph, Table

# Column of the table -> the quantity of a run, and how its mean is written. The units are those of a run's own table.
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "trained parameters": ("trainable_parameters", lambda count: f"{count:,.0f}"),
    "seconds of training": ("seconds", lambda seconds: f"{seconds:,.1f}"),
    "MiB of weights saved": ("export_bytes", lambda size: f"{size / 2**20:,.2f}"),
    "peak memory in MiB": ("peak_memory_bytes", lambda size: f"{size / 2**20:,.0f}"),
}
EXPLAINED = (
    "Seconds are wall-clock time from the first step to the last, including validations and checkpoints, but "
    "not filling caches or the test. The weights saved are those in `export/`: for an adapted run, only the trained."
)


def add_costs(draft: Draft) -> None:
    """Add a row for every setting, with means over its seeds."""
    rows = [
        [
            *(NONE if value is None else str(value) for _, value in setting),
            *cost_cells([draft.results.outcomes[number] for number in numbers]),
            str(len(numbers)),
        ]
        for setting, numbers in draft.by_size(draft.results.groups())
    ]
    header = [*draft.results.varying, *COSTS, "seeds"]
    draft.blocks += [Heading("Costs"), Paragraph(f"Means over seeds. {EXPLAINED}"), Table(header, rows)]


def cost_cells(outcomes: Sequence[Outcome]) -> list[str]:
    """The mean of each of `COSTS`; a dash if a run did not record it."""
    cells = []
    for quantity, written in COSTS.values():
        values = [outcome.quantities.get(quantity) for outcome in outcomes]
        known = [value for value in values if value is not None]
        cells.append(written(float(np.mean(known))) if len(known) == len(values) else NONE)
    return cells
