"""Finished runs compared on their common test, without a sweep: values, paired differences with the first run, costs.

Designs considered. A folder with a page, as for sweeps: two runs have no common folder to write it to, and their table
fits a terminal. A reference chosen by an option: the order of the runs can express it. Chosen: the tables are printed,
and the first run is the reference. The runs are read as the trials of a sweep along an axis `run`, so that both reports
give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.evaluation.estimates import Estimate
from transrec.evaluation.metrics import metric
from transrec.evaluation.report import as_json, table
from transrec.runs.summary import SUMMARY_FILE, USERS_FILE
from transrec.sweeps.analysis.comparison import MARGIN, Comparison, compare
from transrec.sweeps.analysis.multiplicity import holm, written
from transrec.sweeps.analysis.resampling import mean_interval
from transrec.sweeps.analysis.results import Outcome, Results, ResultsError, read_outcome
from transrec.sweeps.records import TRIALS_FILE, Record
from transrec.sweeps.report.sections.costs import COSTS, EXPLAINED, cost_cells

REMARKS = (
    "Brackets are 95 % intervals over resampled users. Differences are paired by user. p (Holm) is adjusted for all "
    "comparisons of the table; verdicts use the intervals, which are not adjusted.",
    "One run each does not show how much results vary with the seed: to choose a method, compare several seeds in "
    "a sweep.",
)


@dataclass(frozen=True)
class SideBySide:
    """Runs compared on the same test, by name, in the order given."""

    runs: dict[str, Outcome]
    values: dict[str, dict[str, Estimate]]  # run -> measure -> value
    differences: dict[tuple[str, str], tuple[Comparison, float]]  # (run, measure) -> comparison, Holm's p-value
    sample: str  # description of the tested users if they are a sample, otherwise empty
    not_compared: dict[str, str]  # metrics of the tests that are left out, and why

    @property
    def reference(self) -> str:
        """The name of the first run, with which the others are compared."""
        return next(iter(self.runs))

    def tables(self) -> list[Table]:
        """The values, the differences and the costs."""
        differences = Table("", "metric", f"difference with {self.reference}", "p (Holm)", "verdict")
        for (run, measure), (c, p) in self.differences.items():
            difference = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
            differences.add_row(run, measure, difference, written(p), f"{c.verdict} (margin {c.margin:.4f})")
        costs = Table("", *COSTS)
        for run, outcome in self.runs.items():
            costs.add_row(run, *cost_cells([outcome]))
        return [table(self.values, of=self.sample), differences, costs]

    def remarks(self) -> list[str]:
        """How to read the tables."""
        omitted = "; ".join(f"{name} ({why})" for name, why in self.not_compared.items())
        return [*REMARKS, *([f"Not compared: {omitted}."] if omitted else []), EXPLAINED]

    def as_json(self) -> dict[str, Any]:
        """The tables as plain values."""
        paths = {name: outcome.record.run for name, outcome in self.runs.items()}
        quantities = [quantity for quantity, _ in COSTS.values()]
        return {
            "runs": [
                {
                    "run": paths[name],
                    "test": as_json(self.values[name]),
                    "costs": {q: outcome.quantities[q] for q in quantities if q in outcome.quantities},
                }
                for name, outcome in self.runs.items()
            ],
            "differences": [
                {
                    "run": paths[run],
                    "with": paths[self.reference],
                    "metric": measure,
                    "difference": c.difference,
                    "interval": [c.low, c.high],
                    "p": c.p,
                    "p_holm": p,
                    "verdict": c.verdict,
                    "margin": c.margin,
                }
                for (run, measure), (c, p) in self.differences.items()
            ],
            "not_compared": self.not_compared,
            **({"of": self.sample} if self.sample else {}),
        }


def compare_runs(folders: Sequence[Path], margin: float = MARGIN) -> SideBySide:
    """Compare finished runs with the first of them.

    Args:
        margin: difference within which two runs count as equivalent, relative to the first.

    Raises:
        ResultsError: a folder is not a finished run with results by user, or the runs have different tests.
    """
    names = _names(folders)
    for folder in folders:
        _check(folder)
    records = [
        Record(name, {"run": name}, str(folder), None, "done") for name, folder in zip(names, folders, strict=True)
    ]
    results = Results("runs", records, [read_outcome(Path(), record) for record in records])
    first, *others = results.outcomes
    for other in others:
        _check_test(first, other)
    values: dict[str, dict[str, Estimate]] = {name: {} for name in names}
    comparisons: dict[tuple[str, str], Comparison] = {}
    for measure in results.measures:
        resampled = results.resampled(measure)
        for number, name in enumerate(names):
            own = resampled.of([number])
            values[name][measure] = Estimate(float(own.values[0]), *mean_interval(own))
            if number:
                better = bool(metric(measure).higher_is_better)
                comparisons[name, measure] = compare(own, resampled.of([0]), better, margin)
    keys = [(name, measure) for name in names[1:] for measure in results.measures]
    adjusted = holm([comparisons[key].p for key in keys])
    differences = {key: (comparisons[key], p) for key, p in zip(keys, adjusted, strict=True)}
    outcomes, sample = dict(zip(names, results.outcomes, strict=True)), results.sample.removeprefix(", of ")
    return SideBySide(outcomes, values, differences, sample, results.not_compared)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish the folders."""
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise ResultsError(f"{folders[number]} is named twice: name each run once")
    parts = range(1, max(len(folder.parts) for folder in resolved) + 1)
    tails = (["/".join(folder.parts[-count:]) for folder in resolved] for count in parts)
    return next(names for names in tails if len(set(names)) == len(names))


def _check(folder: Path) -> None:
    if (folder / TRIALS_FILE).exists():
        raise ResultsError(f"{folder} is a sweep: name one sweep, or only runs")
    if not (folder / SUMMARY_FILE).exists():
        raise ResultsError(f"{folder} has no {SUMMARY_FILE}: name the folder of a finished run")
    if not (folder / USERS_FILE).exists():
        raise ResultsError(
            f"{folder} has no results by user: write them with `python launch/evaluate.py --run {folder} --save-users`"
        )


def _check_test(first: Outcome, other: Outcome) -> None:
    both = f"{other.record.run} and {first.record.run}"
    if other.instances != first.instances:
        raise ResultsError(
            f"{both} were tested on different users or targets: only runs on the same test can be compared"
        )
    for key, value in other.protocol.items():
        if value != first.protocol[key]:
            raise ResultsError(f"{both} rank different items (`{key}`): only runs on the same test can be compared")
