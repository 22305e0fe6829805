"""The report of a finished run without a sweep: `report/` in its folder, from its summary.

report.md      the test next to the baselines, by group, and the calibration of its probabilities
index.html     the same as one self-contained page
"""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from transrec.evaluation.groups import OF_GROUPING
from transrec.evaluation.ranking_metrics import Bin
from transrec.runs.summary import SUMMARY_FILE
from transrec.sweeps.analysis.results import Tested, read_keys, sample_of
from transrec.sweeps.records import TRIALS_FILE
from transrec.sweeps.report.draft import NONE
from transrec.sweeps.report.figures import reliability_figure
from transrec.sweeps.report.page import PAGE_FILE, REPORT_FOLDER, Block, Heading, Paragraph, Table, save

_INTERVAL, _QUESTIONS = "_interval", "questions"
_THIS_RUN = "this run"

_Values = Mapping[str, float | tuple[float, float]]


def _with_intervals(values: _Values) -> _Values:
    for name in _metrics(values):
        if not isinstance(values[name], float) or not isinstance(values.get(f"{name}{_INTERVAL}"), tuple):
            raise ValueError(f"{name} is not a number with an interval")
    return values


def _with_questions(values: _Values) -> _Values:
    if not isinstance(values.get(_QUESTIONS), float):
        raise ValueError(f"{_QUESTIONS} is not a number")
    return values


def _metrics(values: _Values) -> list[str]:
    return [name for name in values if not name.endswith(_INTERVAL) and name != _QUESTIONS]


_Measures = Annotated[_Values, AfterValidator(_with_intervals)]  # a metric and, as `NAME_interval`, its interval
_Groups = Mapping[str, Annotated[_Measures, AfterValidator(_with_questions)]]  # with the number of its questions


class _Summary(BaseModel):
    """The keys of a run's summary that its report reads."""

    test: _Measures
    baselines: dict[str, _Measures] = {}
    by_popularity: dict[str, _Groups] = {}
    by_user: dict[str, _Groups] = {}
    calibration: dict[str, Annotated[list[Bin], Field(min_length=1)]] = {}
    remarks: list[str] = []
    samples: dict[str, Tested] = {}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a finished run, and not of a sweep."""
    return (folder / SUMMARY_FILE).exists() and not (folder / TRIALS_FILE).exists()


def report_run(run: Path) -> Path:
    """Write `report/` into a run folder; returns the page.

    Raises:
        ResultsError: the summary of the run cannot be read.
        StorageError: the report cannot be written.
    """
    title, (found, summary) = f"Run {run.resolve().name}", read_keys(run, _Summary)
    save(run / REPORT_FOLDER, title, [Heading(title, 1), *_blocks(summary, sample_of(found))])
    return run / REPORT_FOLDER / PAGE_FILE


def _blocks(summary: _Summary, sample: str) -> list[Block]:
    metrics = _metrics(summary.test)
    rows = {**summary.baselines, _THIS_RUN: summary.test}
    blocks: list[Block] = [
        Heading(f"Test, of {sample}" if sample else "Test"),
        Table(["", *metrics], [[name, *(_cell(found, m) for m in metrics)] for name, found in rows.items()]),
        Paragraph("Brackets are confidence intervals over resampled users."),
        *map(Paragraph, summary.remarks),
    ]
    for grouping, models in (("by_popularity", summary.by_popularity), ("by_user", summary.by_user)):
        blocks += _grouped(OF_GROUPING[grouping], models)
    if summary.calibration:
        blocks += [Heading("Calibration"), reliability_figure("calibration", summary.calibration)]
    return blocks


def _grouped(of: str, models: Mapping[str, _Groups]) -> list[Block]:
    """A table for each metric, with a row for each model and a column for each group; empty without groups."""
    own = models.get(_THIS_RUN, {})
    sizes = {group: found[_QUESTIONS] for group, found in own.items()}
    metrics = dict.fromkeys(metric for found in own.values() for metric in _metrics(found))
    tables = [
        Table(
            [metric, *(f"{group} ({size:,.0f})" for group, size in sizes.items())],
            [[name, *(_cell(groups.get(g, {}), metric) for g in sizes)] for name, groups in models.items()],
        )
        for metric in metrics
    ]
    return [Heading(f"By {of}"), *tables] if tables else []


def _cell(measures: _Values, metric: str) -> str:
    if metric not in measures:
        return NONE
    value, interval = measures[metric], measures[f"{metric}{_INTERVAL}"]
    assert isinstance(value, float)
    assert isinstance(interval, tuple)
    return "undefined" if isnan(value) else f"{value:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"
