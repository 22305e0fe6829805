"""The report of a sweep: `report/` in its folder, from what its trials left behind.

report.md      what was found, tables, and the figures beside it as PNG
index.html     the same as one page that needs nothing else
results.csv    a row for every trial
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from transrec.files import replace_atomically, write_text, writing
from transrec.sweeps.comparison import MARGIN, Comparison, compare
from transrec.sweeps.crossing import crossing
from transrec.sweeps.curves import Curve, Measured, curves, label, paired, surfaces
from transrec.sweeps.figures import Drawing, cost_figure, human, in_short, quality_figure, scaling_figure
from transrec.sweeps.findings import Findings
from transrec.sweeps.fits import DELTA, Scaling, analyse
from transrec.sweeps.page import Block, Bullets, Heading, Paragraph, Table, html, markdown
from transrec.sweeps.records import Record
from transrec.sweeps.resampling import interval, mean_draws
from transrec.sweeps.results import LOSS, QUANTITIES, Results, Setting, load_results

REPORT_FOLDER = "report"
_MOST_PANELS = 4
_NONE = "–"


@dataclass
class Report:
    """Put together part by part; each adds blocks, and sentences to the findings."""

    results: Results
    margin: float = MARGIN
    delta: float = DELTA
    blocks: list[Block] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        monitor = self.results.monitor
        names = [name for name in self.results.measures if not name.startswith("MRR") or name == monitor]
        self.measured = {name: Measured(name, self.results.resampled(name), self.delta) for name in names}
        ndcg = next((name for name in names if name.startswith("NDCG")), names[-1])
        self.quality = monitor if monitor in names else ndcg
        self.findings.trials(self.results)
        self.list_means()
        for axis in self.results.choice_axes:
            self.compare(axis)
        for axis in self.results.size_axes:
            self.scale(axis)
        for first, second in combinations(self.results.size_axes, 2):
            self.scale_jointly(first, second)
        self.list_trials()

    def document(self) -> list[Block]:
        found, unsaid = self.findings.found, self.findings.unsaid
        return [
            Heading(f"Sweep {self.results.name}", 1),
            Heading("What was found"),
            Bullets(found or ["Nothing that the trials support."]),
            Heading("What cannot be said"),
            Bullets(unsaid or ["Nothing that was asked was left open."]),
            Paragraph(_how_to_read(self.margin, self.delta)),
            *self.blocks,
        ]

    # Means

    def list_means(self) -> None:
        """Every setting; below those that were tested alike, the baselines of that test."""
        axes = list(self.results.varying)
        alike: dict[str, list[tuple[Setting, list[int]]]] = {}
        for setting, numbers in self._by_size(self.results.groups()):
            of_first = self.results.outcomes[numbers[0]]
            key = json.dumps([[dict(setting).get(axis) for axis in self.results.task_axes], of_first.baselines])
            alike.setdefault(key, []).append((setting, numbers))
        rows: list[list[str]] = []
        for settings in alike.values():
            baselines = self.results.outcomes[settings[0][1][0]].baselines
            rows += [self._mean_row(setting, numbers, baselines) for setting, numbers in settings]
            common = dict(set.intersection(*(set(setting) for setting, _ in settings)))
            free = next((axis for axis in axes if axis not in common), None)
            for name, values in baselines.items():
                labels = [name if axis == free else str(common.get(axis, _NONE)) for axis in axes]
                rows.append([*labels, *(_baseline_cell(values, measure) for measure in self.measured), _NONE, _NONE])
        header = [*axes, *self.measured, "seeds", f"behind in {self.quality}"]
        self.blocks += [Heading("Means"), Table(header, rows)]

    def _mean_row(
        self, setting: Setting, numbers: list[int], baselines: Mapping[str, Mapping[str, float]]
    ) -> list[str]:
        cells, labels = [], [_NONE if value is None else str(value) for _, value in setting]
        for measured in self.measured.values():
            cell = measured.values.of(numbers)
            low, high = interval(mean_draws(cell, np.random.default_rng(0)))
            cells.append(f"{cell.values.mean():.4f} [{low:.4f}, {high:.4f}]")
        quality = self.measured[self.quality].values.of(numbers).values.mean()
        ahead = [name for name, values in baselines.items() if values.get(self.quality, -np.inf) > quality]
        return [*labels, *cells, str(len(numbers)), ", ".join(ahead) or _NONE]

    # Comparisons

    def compare(self, axis: str) -> None:
        """Every label of a choice against the baseline, wherever both were trained."""
        labels = self.results.axes[axis]
        baseline = "full" if "full" in labels else labels[0]
        rows: list[list[str]] = []
        for name in labels:
            if name != baseline:
                for measure in self.measured:
                    found = self._comparisons(axis, name, baseline, measure)
                    rows += [_comparison_row(name, measure, self._label(setting), c) for setting, c in found]
                    if measure == self.quality:
                        self._tell(str(name), str(baseline), found)
        header = ["", "measure", "setting", "mean", str(baseline), "difference", "share", "verdict", "seeds"]
        self.blocks += [Heading(f"{axis}: compared with {baseline}"), *self._cost_figures(axis), Table(header, rows)]

    def _tell(self, name: str, baseline: str, found: list[tuple[Setting, Comparison]]) -> None:
        """Of each task on its own."""
        tasks = list(dict.fromkeys(label(setting, self.results.task_axes) for setting, _ in found)) or [""]
        for task in tasks:
            of_task = [c for setting, c in found if label(setting, self.results.task_axes) == task]
            who = f"{task}: {name}" if task else name
            self.findings.comparisons(who, baseline, self.quality, of_task)

    def _label(self, setting: Setting) -> str:
        return label(setting, list(self.results.axes))

    def _comparisons(self, axis: str, name: Any, baseline: Any, measure: str) -> list[tuple[Setting, Comparison]]:
        found = []
        values = self.measured[measure].values
        for setting, numbers in self._by_size(self.results.groups(axis)):
            members = [[n for n in numbers if self.results.outcomes[n].axes.get(axis) == x] for x in (name, baseline)]
            pairs = paired(self.results, *members)
            if pairs:
                ones, others = zip(*pairs, strict=True)
                c = compare(values.of(ones), values.of(others), measure != LOSS, self.margin)
                found.append((setting, c))
        return found

    def _cost_figures(self, axis: str) -> list[Drawing]:
        """Where the most of everything was to learn from."""
        groups = self._by_size(self.results.groups(axis))
        largest = [_sizes(setting, self.results) for setting, _ in groups][-1]
        drawings = []
        for setting, numbers in groups:
            if _sizes(setting, self.results) == largest:
                cells: dict[str, list[int]] = {}
                for choice in self.results.axes[axis]:
                    members = [n for n in numbers if self.results.outcomes[n].axes.get(axis) == choice]
                    cells |= {str(choice): members} if members else {}
                chosen = [str(value) for a, value in setting if a not in self.results.size_axes]
                name = file_name("cost", axis, *chosen)
                drawing = cost_figure(name, axis, self.measured[self.quality], self.results, cells)
                where = self._label(setting)
                drawing.caption += f" Setting: {where}." if where else ""
                drawings.append(drawing)
        return drawings

    def _by_size(self, groups: dict[Setting, list[int]]) -> list[tuple[Setting, list[int]]]:
        """The setting with the largest sizes last."""
        return sorted(groups.items(), key=lambda item: _sizes(item[0], self.results))

    # Laws

    def scale(self, axis: str) -> None:
        """Laws along an axis of sizes, against every amount that grows along it; figures against the first of them."""
        by_amount = curves(self.results, axis)
        if not by_amount:
            self.findings.unsaid.append(
                f"Any law along {axis}: no amount of data, parameters or operations grows along all of it."
            )
            return
        if self.quality != LOSS:
            name = file_name("curve", axis, self.quality)
            found = self._in_order(next(iter(by_amount.values())))
            self.blocks += [
                Heading(f"{axis}: how much is enough"),
                quality_figure(name, self.measured[self.quality], self.results, found),
            ]
        self.blocks.append(Heading(f"{axis}: laws"))
        rows = []
        for place, found in enumerate(by_amount.values()):
            for measured in self.measured.values():
                analysed = [(curve, measured.scaling(curve)) for curve in found]
                rows += [_law_row(curve, measured, scaling) for curve, scaling in analysed]
                if place == 0:
                    self._show(axis, measured, analysed)
        header = [
            "",
            "setting",
            "error",
            "against",
            "α",
            "chance without a law",
            "largest size, from the others",
            "E",
            "A",
        ]
        self.blocks.append(Table(header, rows))
        self._cross(self._in_order(next(iter(by_amount.values()))))

    def _show(self, axis: str, measured: Measured, analysed: list[tuple[Curve, Scaling]]) -> None:
        panels: dict[str, list[tuple[Curve, Scaling]]] = {}
        scalings = {curve.setting: scaling for curve, scaling in analysed}
        for curve in self._in_order([curve for curve, _ in analysed]):
            panels.setdefault(curve.panel, []).append((curve, scalings[curve.setting]))
        chosen = np.unique(np.linspace(0, len(panels) - 1, _MOST_PANELS).round().astype(int))
        shown = {name: panels[name] for i, name in enumerate(panels) if i in chosen}
        self.blocks.append(scaling_figure(file_name("law", axis, measured.measure), measured, shown))
        if measured.measure in list(self.measured)[:2]:  # the loss, and the metric that is named first
            for curve, scaling in list(panels.values())[-1]:
                self.findings.scaling(curve, measured.error_name, scaling)

    def _in_order(self, found: list[Curve]) -> list[Curve]:
        """Those where other sizes are largest last."""
        return sorted(found, key=lambda curve: _sizes(curve.setting, self.results))

    def _cross(self, found: list[Curve]) -> None:
        """Where the curves of a choice and of its baseline cross, at each setting of the rest."""
        rows = []
        for axis in self.results.choice_axes:
            labels = self.results.axes[axis]
            baseline = "full" if "full" in labels else labels[0]
            for first, second in _partners(found, axis, baseline):
                for measured in self.measured.values():
                    rows += self._crossing(measured, first, second, largest=first.panel == found[-1].panel)
        if rows:
            header = ["", "setting", "error", "against", "smaller at first", "crosses at", "draws that agree"]
            self.blocks += [Heading("Where curves cross", 3), Table(header, rows)]

    def _crossing(self, measured: Measured, first: Curve, second: Curve, largest: bool) -> list[list[str]]:
        sizes, differences = measured.difference(first, second, self.results)
        if len(sizes) < 2:
            return []
        c = crossing(sizes, differences)
        amount = QUANTITIES[first.amount]
        if largest and measured.measure == self.quality:
            self.findings.crossing(first, second, measured.error_name, c)
        interval = "" if c.low is None or c.high is None else f" [{human(c.low)}, {human(c.high)}]"
        place = c.times if c.size is None else f"{human(c.size)}{interval}"
        ahead = first.series if c.ahead == 1 else second.series
        versus = f"{first.series}, {second.series}"
        return [[versus, first.panel or _NONE, measured.error_name, amount, ahead, place, f"{c.share:.0%}"]]

    def scale_jointly(self, first: str, second: str) -> None:
        """E + A·N^-α + B·D^-β over both axes."""
        found = surfaces(self.results, first, second)
        rows = [
            _joint_row(series, measured, analyse(sizes, measured.errors.of(numbers), self.delta))
            for measured in self.measured.values()
            for series, (sizes, numbers) in found.items()
        ]
        if rows:
            header = ["", "error", "E", "A", "α", "B", "β", "chance without a law"]
            title = f"{first} and {second}: E + A·N^-α + B·D^-β, N along {first}, D along {second}"
            self.blocks += [Heading(title), Table(header, rows)]

    # Trials

    def list_trials(self) -> None:
        """Those that were lost, and those that something was noted of."""
        records, unreadable = self.results.records, self.results.unreadable
        lost = [record for record in records if record.status in ("failed", "stopped") or record.trial in unreadable]
        noted = [record for record in records if record.notes and record not in lost]
        told = Paragraph(f"{len(self.results.outcomes)} of {len(records)} are in this report.")
        self.blocks += [Heading("Trials"), told]
        if lost or noted:
            rows = [_trial_row(record, unreadable.get(record.trial)) for record in [*lost, *noted]]
            self.blocks.append(Table(["trial", "setting", "status", "what was said"], rows))


def write_report(folder: Path, margin: float = MARGIN, delta: float = DELTA) -> Report:
    """Write `report/` into a sweep's folder.

    Args:
        margin: within which two choices count as equivalent, relative to the baseline's mean.
        delta: of the Huber loss that laws are fitted with.

    Raises:
        RecordsError: not a sweep's folder.
        ResultsError: no trial has finished.
        StorageError: the report cannot be written.
    """
    report = Report(load_results(folder), margin, delta)
    document, target = report.document(), folder / REPORT_FOLDER
    with writing(target):
        target.mkdir(exist_ok=True)
    for block in document:
        if isinstance(block, Drawing):
            with replace_atomically(target / f"{block.name}.png") as partial:
                block.figure.savefig(partial, dpi=300, format="png")
    write_text(target / "results.csv", results_csv(report.results))
    write_text(target / "index.html", html(f"Sweep {report.results.name}", document))
    write_text(target / "report.md", markdown(document))
    return report


def results_csv(results: Results) -> str:
    """A row for every trial, the lost ones too."""
    axes, measures = list(results.axes), results.measures
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{measure}_{end}" for measure in measures for end in ("low", "high")]
    writer.writerow(["trial", *axes, "status", "run", "source_run", *QUANTITIES, *measures, *ends, "error"])
    outcomes = {outcome.record.trial: outcome for outcome in results.outcomes}
    for record in results.records:
        values: list[Any] = [""] * (len(QUANTITIES) + len(measures) + len(ends))
        if outcome := outcomes.get(record.trial):
            test = outcome.summary["test"]
            values = [outcome.quantities.get(name, "") for name in QUANTITIES]
            values += [test[m] for m in measures] + [end for m in measures for end in test[f"{m}_interval"]]
        error = results.unreadable.get(record.trial, record.error or "")
        labels = [record.axes.get(axis, "") for axis in axes]
        writer.writerow([record.trial, *labels, record.status, record.run, record.source_run or "", *values, error])
    return out.getvalue()


def file_name(*parts: str) -> str:
    """A stem that any file system and any page takes: "law-source_fraction-ndcg10"."""
    kept = ["".join(c for c in part.lower() if c.isascii() and (c.isalnum() or c == "_")) for part in parts]
    return "-".join(filter(None, kept))


def _partners(found: list[Curve], axis: str, baseline: Any) -> list[tuple[Curve, Curve]]:
    """Every curve with the one that differs from it in having the baseline of `axis`."""
    by_setting = {curve.setting: curve for curve in found}
    pairs = []
    for curve in found:
        partner = tuple((a, baseline if a == axis else value) for a, value in curve.setting)
        if partner != curve.setting and partner in by_setting:
            pairs.append((curve, by_setting[partner]))
    return pairs


def _sizes(setting: Setting, results: Results) -> tuple[float, ...]:
    """What settings are ordered by; one without an axis comes before those with it."""
    return tuple(-np.inf if value is None else value for axis, value in setting if axis in results.size_axes)


def _baseline_cell(values: Mapping[str, Any], measure: str) -> str:
    if measure not in values:
        return _NONE
    low, high = values[f"{measure}_interval"]
    return f"{values[measure]:.4f} [{low:.4f}, {high:.4f}]"


def _trial_row(record: Record, unreadable: str | None) -> list[str]:
    said = "; ".join(filter(None, [unreadable, record.error, *record.notes]))
    setting = label(tuple(record.axes.items()), list(record.axes))
    return [record.trial, setting, "unreadable" if unreadable else record.status, said]


def _comparison_row(name: Any, measure: str, setting: str, c: Comparison) -> list[str]:
    difference = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
    verdict = f"{c.verdict} (margin {c.margin:.4f})"
    mean, baseline = f"{c.value:.4f}", f"{c.baseline:.4f}"
    return [str(name), measure, setting or _NONE, mean, baseline, difference, f"{c.share:.3f}", verdict, str(c.seeds)]


def _law_row(curve: Curve, measured: Measured, scaling: Scaling) -> list[str]:
    head = [curve.series, curve.panel or _NONE, measured.error_name, QUANTITIES[curve.amount]]
    if scaling.fit is None:
        return [*head, _NONE, in_short(scaling), _NONE, _NONE, _NONE]
    check = scaling.extrapolation
    told = "too few sizes to hold it back"
    if check is not None:
        interval = f"{check.predicted:.4f} [{check.low:.4f}, {check.high:.4f}]"
        told = f"{interval}, measured {check.measured:.4f}: {'inside' if check.holds else 'outside'}"
    floor, level, exponent = _parameters(scaling)
    return [*head, exponent, _chances(scaling), told, floor, level]


def _joint_row(series: str, measured: Measured, scaling: Scaling) -> list[str]:
    if scaling.fit is None:
        return [series, measured.error_name, *[_NONE] * 5, in_short(scaling)]
    return [series, measured.error_name, *_parameters(scaling), _chances(scaling)]


def _parameters(scaling: Scaling) -> list[str]:
    assert scaling.fit is not None
    ends = scaling.intervals()
    values = scaling.fit.parameters
    return [f"{value:.3g} [{ends[name][0]:.3g}, {ends[name][1]:.3g}]" for name, value in values.items()]


def _chances(scaling: Scaling) -> str:
    """What F tests say: p values."""
    bend = scaling.chance_of_break
    return f"{scaling.chance:.2g}" + (f"; of its bends {bend:.2g}" if bend is not None else "")


def _how_to_read(margin: float, delta: float) -> str:
    return (
        "Brackets are 95 % intervals over resampled users and over seeds. A difference is paired by user and by seed; "
        "“share” is twice the share of draws on the other side of zero. Two are called equivalent where two one-sided "
        f"tests at 5 % put the difference within {margin:.0%} of the baseline. An error is the loss, or one minus a "
        f"metric. Laws are fitted to the log of each size's mean error with Huber's loss (delta {delta:g}); F tests at "
        "5 % compare them with a constant, where a chance of 5 to 15 % decides nothing, and with a power law that "
        "breaks. Of larger sizes something is said only where the law, fitted without the largest size, predicted it."
    )
