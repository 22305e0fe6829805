"""Results read from a sweep's folder: the measurements of each trial on its test users, and its cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from transrec.config import ConfigError, read_yaml
from transrec.errors import TransRecError
from transrec.evaluation.estimates import Counts, Statistic
from transrec.evaluation.metric import MeanMetric, Metric
from transrec.evaluation.metrics import metric
from transrec.runs.summary import SUMMARY_FILE, USERS_FILE, read_summary
from transrec.sweeps.analysis.laws import Floats
from transrec.sweeps.analysis.resampling import Resampled, means, resample_statistic
from transrec.sweeps.records import Record, read

SEED = "seed"
LOSS = "loss"

Keys = TypeVar("Keys", bound=BaseModel)
Setting = tuple[tuple[str, Any], ...]  # (axis, label) of some axes

_KEPT = {
    "rank",
    "target",
    "loss",
    "predicted",
}  # values that a run keeps for each target, from which metrics can be resampled
_COLUMNS = {
    "user_id": pa.types.is_string,
    "target": pa.types.is_string,
    "rank": pa.types.is_integer,
    "loss": pa.types.is_floating,
}  # columns of the file of tested users, with their types

# Quantities that a trial can be plotted against, in order of preference, with their names in reports.
QUANTITIES = {
    "source_interactions": "interactions of pretraining",
    "labels": "labels of the task",
    "interactions": "interactions of training",
    "trainable_parameters": "trained parameters",
    "source_flops": "FLOPs of pretraining",
    "flops": "FLOPs of training",
    "seconds": "seconds of training",
    "peak_memory_bytes": "peak memory in bytes",
    "export_bytes": "bytes of the weights saved",
}


class _Operations(BaseModel):
    forward: float
    backward: float


class _Trained(BaseModel):
    trainable: int


class Tested(BaseModel):
    """The number of users in a sample, and of all users that it was drawn from."""

    users: int
    of: int


_Measures = dict[str, float | tuple[float, float]]  # a measure and, as `NAME_interval`, its interval


class _Summary(BaseModel):
    """The keys of a run's summary that a report reads."""

    test: _Measures
    data: dict[str, float]
    parameters: _Trained
    steps: int
    seconds: float
    peak_memory_bytes: float
    baselines: dict[str, _Measures]
    flops_per_user: _Operations | None = None
    samples: dict[str, Tested] = {}
    export_bytes: dict[str, float] = {}


class ResultsError(TransRecError, ValueError):
    """The sweep has nothing to report yet, or one of its runs cannot be read."""


@dataclass(frozen=True)
class Outcome:
    """A finished trial."""

    record: Record
    summary: dict[str, Any]
    quantities: dict[str, float]  # the known ones among `QUANTITIES`
    monitor: str | None  # the metric by which the best weights were chosen
    protocol: dict[str, Any]  # settings that change the ranks of the same test
    shards: str  # path of the shards it was trained on
    source_shards: str | None
    users: tuple[str, ...]  # the user of each target; with next items as targets, each user has one
    targets: tuple[str, ...]
    ranks: NDArray[np.int64]  # (I,)
    losses: Floats  # (I,)
    predicted: tuple[str, ...] | None  # predicted classes, if a metric reads them

    @property
    def axes(self) -> dict[str, Any]:
        return self.record.axes

    @property
    def instances(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The users and targets tested; trials can be compared if they agree in both."""
        return self.users, self.targets

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """Baseline -> its measures on the same instances."""
        found: dict[str, dict[str, Any]] = self.summary["baselines"]
        return found

    def read(self, asked: Metric) -> list[Tensor]:
        """The columns (I,) that a metric reads; class names are replaced by numbers."""
        names = [*self.targets, *(self.predicted or ())]
        classes = np.unique(names, return_inverse=True)[1].reshape(-1, len(self.targets))
        columns = {"rank": self.ranks, "loss": self.losses, **dict(zip(("target", "predicted"), classes, strict=False))}
        return [torch.from_numpy(columns[name]) for name in asked.reads]


@dataclass(frozen=True)
class Results:
    """The trials of a sweep, and the results of the finished ones."""

    name: str
    records: list[Record]  # all trials, in the order of the plan
    outcomes: list[Outcome]  # the finished ones
    unreadable: dict[str, str] = field(default_factory=dict)  # trial -> the error on reading its run

    @cached_property
    def measures(self) -> list[str]:
        """The loss, and every metric of full ranking or of classes that all trials have, in their order."""
        lists = [[name for name in outcome.summary["test"] if _is_kept(name)] for outcome in self.outcomes]
        return [LOSS, *(name for name in lists[0] if name != LOSS and all(name in names for names in lists))]

    @cached_property
    def not_compared(self) -> dict[str, str]:
        """Metrics of the tests that are not among `measures`, and why."""
        tests = [outcome.summary["test"] for outcome in self.outcomes]
        names = dict.fromkeys(name for test in tests for name in test if not name.endswith("_interval"))
        return {name: why_not(name) or "not every run has it" for name in names if name not in self.measures}

    @cached_property
    def monitor(self) -> str | None:
        """The `train.monitor` of all runs; None if they differ."""
        found = {outcome.monitor for outcome in self.outcomes}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def sample(self) -> str:
        """The users that trials were tested on, if they are a sample, as in ", of a sample of 10 of 20 users"."""
        samples = dict.fromkeys(sample_of(outcome.summary) for outcome in self.outcomes)
        return f", of {' or '.join(name or 'all users' for name in samples)}" if any(samples) else ""

    @cached_property
    def axes(self) -> dict[str, list[Any]]:
        """The labels of each axis among all trials, in the order of the plan."""
        found: dict[str, list[Any]] = {}
        for record in self.records:
            for axis, label in record.axes.items():
                if label not in found.setdefault(axis, []):
                    found[axis].append(label)
        return found

    @cached_property
    def size_axes(self) -> list[str]:
        """Axes with several numbers as labels, except the seed; laws are fitted along them."""
        return [axis for axis, labels in self.varying.items() if all(map(_is_number, labels))]

    @cached_property
    def task_axes(self) -> list[str]:
        """Axes whose labels were tested on different targets, so that the labels cannot be compared with each other."""
        labelled = [axis for axis in self.varying if axis not in self.size_axes]
        return [
            axis for axis in labelled if not any(self._is_shared(axis, group) for group in self.groups(axis).values())
        ]

    @cached_property
    def choice_axes(self) -> list[str]:
        """The other axes that vary, such as methods; trials are compared along them."""
        return [axis for axis in self.varying if axis not in (*self.size_axes, *self.task_axes)]

    def _is_shared(self, axis: str, numbers: Sequence[int]) -> bool:
        """Whether trials with different labels were tested on the same targets."""
        asked = {(self.outcomes[n].axes.get(axis), self.outcomes[n].instances) for n in numbers}
        return len({instances for _, instances in asked}) < len(asked)

    @property
    def varying(self) -> dict[str, list[Any]]:
        """Labels of the axes, except the seed, in which trials differ; with several grids, a trial may lack an axis."""
        lacking = {axis for axis in self.axes for record in self.records if axis not in record.axes}
        return {a: labels for a, labels in self.axes.items() if a != SEED and len(labels) + (a in lacking) > 1}

    def resampled(self, measure: str) -> Resampled:
        """`measure` of every outcome; outcomes tested on the same users and targets share their draws."""
        columns: dict[int, tuple[float, Floats]] = {}
        for number, ((users, _), members) in enumerate(_by_instances(self.outcomes)):
            owners = np.unique(users, return_inverse=True)[1]
            statistic = _statistic(metric(measure), [self.outcomes[i] for i in members])
            found = resample_statistic(statistic, number, owners)
            columns |= {i: (found.values[n], found.draws[:, n]) for n, i in enumerate(members)}
        ordered = [columns[i] for i in range(len(self.outcomes))]
        return Resampled(np.array([value for value, _ in ordered]), np.stack([draws for _, draws in ordered], axis=1))

    def groups(self, *without: str) -> dict[Setting, list[int]]:
        """Setting -> numbers of the outcomes that agree in all varying axes except `without` (None: no such axis)."""
        found: dict[Setting, list[int]] = {}
        for number, outcome in enumerate(self.outcomes):
            key = tuple((axis, outcome.axes.get(axis)) for axis in self.varying if axis not in without)
            found.setdefault(key, []).append(number)
        return found


def load_results(folder: Path) -> Results:
    """Read the results of the sweep in `folder`.

    Raises:
        RecordsError: `folder` is not a sweep's folder.
        ResultsError: no trial has finished.
    """
    records, outcomes, unreadable = read(folder), [], {}
    for record in records:
        if record.status == "done":
            try:
                outcomes.append(read_outcome(folder, record))
            except ResultsError as error:
                unreadable[record.trial] = str(error)
    if not outcomes:
        reasons = [*unreadable.values(), *(r.error for r in records if r.error)]
        first = f"; the first reason: {reasons[0]}" if reasons else ""
        raise ResultsError(f"{folder}: none of {len(records)} trials has results, so there is nothing to report{first}")
    return Results(folder.resolve().name, records, outcomes, unreadable)


def read_outcome(folder: Path, record: Record) -> Outcome:
    """Read the results of a finished trial, whose run is relative to `folder`.

    Raises:
        ResultsError: the run cannot be read.
    """
    summary = _summary(folder / record.run)
    quantities = _quantities(folder / record.run, summary)
    config, source_shards = _config(folder / record.run), None
    if record.source_run is not None:
        source = folder / record.source_run
        source_shards = str(_config(source)["data"]["path"])
        of_source = _quantities(source, _summary(source))
        quantities |= {f"source_{name}": of_source[name] for name in ("interactions", "flops") if name in of_source}
    path = folder / record.run / USERS_FILE
    try:
        tested = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise ResultsError(
            f"{path} is missing or unreadable: write it again with `python launch/evaluate.py --run {path.parent} "
            "--save-users`"
        ) from None
    for name, kind in _COLUMNS.items():
        if name not in tested.column_names:
            raise ResultsError(f"{path} has no column `{name}`: train the run again with this version")
        if not kind(tested.schema.field(name).type) or tested[name].null_count:
            raise ResultsError(f"{path} is damaged (column `{name}`): train the run again")
    return Outcome(
        record=record,
        summary=summary,
        quantities=quantities,
        monitor=config["train"].get("monitor"),
        protocol={
            "data.candidates": config["data"].get("candidates"),
            "evaluation.repeats": config.get("evaluation", {}).get("repeats"),
        },
        shards=str(config["data"]["path"]),
        source_shards=source_shards,
        users=tuple(tested["user_id"].to_pylist()),
        targets=tuple(tested["target"].to_pylist()),
        ranks=tested["rank"].to_numpy().copy(),
        losses=tested["loss"].to_numpy().astype(np.float64),
        predicted=tuple(tested["predicted"].to_pylist()) if "predicted" in tested.column_names else None,
    )


def _summary(run: Path) -> dict[str, Any]:
    """The summary of a run, which has all keys that a report reads."""
    path, (found, summary) = run / SUMMARY_FILE, read_keys(run, _Summary)
    if "impressions" in summary.data:
        raise ResultsError(f"{path} is from a test with impressions, which reports cannot compare: leave the run out")
    for name in {LOSS, *filter(_is_kept, summary.test)}:
        value, interval = (summary.test.get(key) for key in (name, f"{name}_interval"))
        if not isinstance(value, float) or not isinstance(interval, tuple):
            what = f"`test.{name}` is not a number with an interval"
            raise ResultsError(f"{path} is damaged ({what}): train the run again")
    return found


def read_keys(run: Path, keys: type[Keys]) -> tuple[dict[str, Any], Keys]:
    """The summary of a run, and the keys of it that a report reads.

    Raises:
        ResultsError: the summary or a key is missing or damaged.
    """
    path, found = run / SUMMARY_FILE, read_summary(run)
    if found is None:
        raise ResultsError(f"{path} is missing or unreadable: train the run again")
    try:
        return found, keys.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            raise ResultsError(f"{path} has no {key!r}: train the run again with this version") from None
        raise ResultsError(f"{path} is damaged (`{key}`: {fault['msg']}): train the run again") from None


def sample_of(summary: dict[str, Any]) -> str:
    """A description of the test users, if they are a sample."""
    found = summary.get("samples", {}).get("test")
    return "" if found is None else f"a sample of {found['users']:,} of {found['of']:,} users"


def _quantities(run: Path, summary: dict[str, Any]) -> dict[str, float]:
    config, data = _config(run), summary["data"]
    learnt = "labels" if "labels" in data else "interactions"
    if learnt not in data:
        raise ResultsError(f"{run / SUMMARY_FILE} has no 'data.{learnt}': train the run again with this version")
    found = {
        learnt: data[learnt],
        "trainable_parameters": summary["parameters"]["trainable"],
        "seconds": summary["seconds"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "export_bytes": sum(summary.get("export_bytes", {}).values()),
    }
    if summary.get("flops_per_user"):
        of_window = summary["flops_per_user"]["forward"] + summary["flops_per_user"]["backward"]
        found["flops"] = of_window * summary["steps"] * config["train"]["batch_size"]
    return {name: float(value) for name, value in found.items() if value}


def _config(run: Path) -> dict[str, Any]:
    try:
        config = read_yaml(run / "config.yaml")
        float(config["train"]["batch_size"]), config["data"]["path"]
        return config
    except (ConfigError, KeyError, TypeError, ValueError):
        raise ResultsError(f"{run / 'config.yaml'} is missing or unreadable: train the run again") from None


def _by_instances(outcomes: Sequence[Outcome]) -> Iterable[tuple[Any, list[int]]]:
    found: dict[Any, list[int]] = {}
    for number, outcome in enumerate(outcomes):
        found.setdefault(outcome.instances, []).append(number)
    return found.items()


def _statistic(asked: Metric, outcomes: Sequence[Outcome]) -> Statistic:
    """The statistic of a metric: maps counts of drawn targets (r, I) to its values (r, T) for T trials."""
    if isinstance(asked, MeanMetric):  # all trials at once
        return means([asked.values(*outcome.read(asked)).numpy() for outcome in outcomes])
    statistics = [asked.statistic(*outcome.read(asked)) for outcome in outcomes]

    def each(counts: Counts) -> Floats:
        return np.stack([statistic(counts) for statistic in statistics], axis=1)

    return each


def why_not(name: str) -> str:
    """Why a metric cannot be compared by user; empty if it can be, which needs a better direction and kept readings."""
    try:
        found = metric(name)
    except ValueError:
        return "this version has no such metric"
    if found.higher_is_better is None:
        return "neither direction is better"
    missing = [reading for reading in found.reads if reading not in _KEPT]
    return f"runs do not store {' and '.join(missing)} by user" if missing else ""


def _is_kept(name: str) -> bool:
    """Whether `name` is a metric that can be compared by user."""
    return not why_not(name)


def _is_number(label: Any) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool)
