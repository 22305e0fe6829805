"""Choices against a baseline: differences paired by user and by seed, and the cost of each choice."""

from dataclasses import dataclass
from typing import Any

from transrec.sweeps.analysis.comparison import Comparison, compare
from transrec.sweeps.analysis.curves import label, paired
from transrec.sweeps.analysis.multiplicity import benjamini_hochberg, holm, written
from transrec.sweeps.analysis.results import LOSS, Setting
from transrec.sweeps.report.draft import NONE, Draft, file_name
from transrec.sweeps.report.figures import Drawing, cost_figure
from transrec.sweeps.report.page import Heading, Table

_P_VALUES = ("p (Holm)", "p", "p (Benjamini–Hochberg)")


@dataclass(frozen=True)
class _Row:
    name: str
    measure: str
    setting: Setting
    comparison: Comparison


def add_comparisons(draft: Draft, axis: str) -> None:
    """Compare every label of an axis with the baseline, in each setting that has both."""
    baseline = draft.baseline(axis)
    others = [name for name in draft.results.axes[axis] if name != baseline]
    rows = [
        _Row(str(name), measure, setting, comparison)
        for name in others
        for measure in draft.measured
        for setting, comparison in _comparisons(draft, axis, name, baseline, measure)
    ]
    adjusted = holm([row.comparison.p for row in rows])
    for name in others:
        pairs = [
            (r, p) for r, p in zip(rows, adjusted, strict=True) if (r.name, r.measure) == (str(name), draft.quality)
        ]
        _tell(draft, str(name), str(baseline), pairs)
    _tell_agreement(draft, axis, rows)
    header = ["", "measure", "setting", "mean", str(baseline), "difference", *_P_VALUES, "verdict", "seeds"]
    table = Table(header, _cells(draft, rows, adjusted))
    heading = Heading(f"{axis}: compared with {baseline}{draft.results.sample}")
    draft.blocks += [heading, *_cost_figures(draft, axis), table]


def _tell(draft: Draft, name: str, baseline: str, found: list[tuple[_Row, float]]) -> None:
    """Add the findings of each task separately; each row has its adjusted p-value."""
    tasks = list(dict.fromkeys(label(row.setting, draft.results.task_axes) for row, _ in found)) or [""]
    for task in tasks:
        of_task = [(row.comparison, p) for row, p in found if label(row.setting, draft.results.task_axes) == task]
        who = f"{task}: {name}" if task else name
        by_size = bool(draft.results.size_axes)
        comparisons, adjusted = [c for c, _ in of_task], [p for _, p in of_task]
        draft.findings.comparisons(who, baseline, draft.quality, comparisons, adjusted, by_size)


def _tell_agreement(draft: Draft, axis: str, rows: list[_Row]) -> None:
    """Add whether each other metric agrees with the main one; the loss is left to the table."""
    verdicts = {(row.name, row.setting, row.measure): row.comparison.verdict for row in rows}
    for measure in draft.measured:
        if measure not in (draft.quality, LOSS):
            found = [
                (", ".join(filter(None, [name, draft.label(setting)])), verdict, verdicts[name, setting, measure])
                for (name, setting, of), verdict in verdicts.items()
                if of == draft.quality
            ]
            if found:
                draft.findings.agreement(axis, measure, draft.quality, found)


def _comparisons(draft: Draft, axis: str, name: Any, baseline: Any, measure: str) -> list[tuple[Setting, Comparison]]:
    found = []
    measured = draft.measured[measure]
    values = measured.values
    for setting, numbers in draft.by_size(draft.results.groups(axis)):
        members = [[n for n in numbers if draft.results.outcomes[n].axes.get(axis) == x] for x in (name, baseline)]
        pairs = paired(draft.results, *members)
        if pairs:
            ones, others = zip(*pairs, strict=True)
            c = compare(values.of(ones), values.of(others), bool(measured.higher_is_better), draft.margin)
            found.append((setting, c))
    return found


def _cost_figures(draft: Draft, axis: str) -> list[Drawing]:
    """Figures of quality against cost in the settings with the largest sizes."""
    groups = draft.by_size(draft.results.groups(axis))
    largest = [draft.sizes_of(setting) for setting, _ in groups][-1]
    drawings = []
    for setting, numbers in groups:
        if draft.sizes_of(setting) == largest:
            cells: dict[str, list[int]] = {}
            for choice in draft.results.axes[axis]:
                members = [n for n in numbers if draft.results.outcomes[n].axes.get(axis) == choice]
                cells |= {str(choice): members} if members else {}
            chosen = [str(value) for a, value in setting if a not in draft.results.size_axes]
            name = file_name("cost", axis, *chosen)
            drawing = cost_figure(name, axis, draft.measured[draft.quality], draft.results, cells)
            where = draft.label(setting)
            drawing.caption += f" Setting: {where}." if where else ""
            drawings.append(drawing)
    return drawings


def _cells(draft: Draft, rows: list[_Row], adjusted: list[float]) -> list[list[str]]:
    """The rows of the table; p-values are adjusted for the number of its comparisons."""
    rates = benjamini_hochberg([row.comparison.p for row in rows])
    return [
        _row(draft, row, *map(written, (by_holm, row.comparison.p, by_rate)))
        for row, by_holm, by_rate in zip(rows, adjusted, rates, strict=True)
    ]


def _row(draft: Draft, row: _Row, *p_values: str) -> list[str]:
    c = row.comparison
    difference = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
    verdict = f"{c.verdict} (margin {c.margin:.4f})"
    means = f"{c.value:.4f}", f"{c.baseline:.4f}"
    return [
        row.name,
        row.measure,
        draft.label(row.setting) or NONE,
        *means,
        difference,
        *p_values,
        verdict,
        str(c.seeds),
    ]
