"""Results as a table for people and as plain numbers for files."""

from collections.abc import Mapping
from math import isnan, nan

from rich.table import Table
from rich.text import Text

from transrec.evaluation.estimates import Estimate
from transrec.evaluation.metrics import metric


def table(*sections: Mapping[str, Mapping[str, Estimate]], of: str = "") -> Table:
    """A table with a row for each model and a column for each metric: value and interval.

    A section holds results for the same users; the best value in each of its columns is bold, unless neither direction
    is better. A missing metric is shown
    as a dash, and a caption explains why a value is undefined.

    Args:
        of: the evaluated users, if they are a sample.
    """
    metrics = list(dict.fromkeys(name for rows in sections for row in rows.values() for name in row))
    view = Table(f"of {of}" if of else "", *metrics)
    for rows in sections:
        best = {m: _best(m, [row[m].value for row in rows.values() if m in row]) for m in metrics}
        for name, estimates in rows.items():
            view.add_row(Text(name), *(_cell(estimates.get(m), best[m]) for m in metrics))
        view.add_section()
    undefined = {m for rows in sections for row in rows.values() for m in row if isnan(row[m].value)}
    if undefined:
        view.caption = "\n".join(f"{m} is undefined if {metric(m).undefined_if}." for m in metrics if m in undefined)
    return view


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, float | list[float]]:
    """`{"HR@10": value, "HR@10_interval": [low, high], ...}`."""
    values: dict[str, float | list[float]] = {}
    for name, estimate in estimates.items():
        values[name] = estimate.value
        values[f"{name}_interval"] = [estimate.low, estimate.high]
    return values


def _best(name: str, values: list[float]) -> float:
    defined, higher = [value for value in values if not isnan(value)], metric(name).higher_is_better
    return nan if higher is None else (max if higher else min)(defined, default=0.0)


def _cell(estimate: Estimate | None, best: float) -> Text:
    if estimate is None:
        return Text("–")
    if isnan(estimate.value):
        return Text("undefined", style="dim")
    text = Text(f"{estimate.value:.4f}", style="bold" if estimate.value == best else "")
    return Text.assemble(text, Text(f" [{estimate.low:.4f}, {estimate.high:.4f}]", style="dim"))
