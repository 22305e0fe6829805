"""Forecast of a sweep's cost: operations and device-hours of every unfinished run.

Windows are counted, and operations are measured on one micro-batch of each kind of run (model, adaptation, precision).
The speed is taken from finished runs of the same kind in the storage. Otherwise, a few steps of the cheapest and of the
most expensive kind are timed on this machine, and the speed of the kinds in between is interpolated by operations.
Validations, tests and the start of processes (tens of seconds) are not included.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from transrec.config import ConfigError
from transrec.data.batch import to_device
from transrec.data.content.opening import open_store
from transrec.data.train_stream import TrainStream
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.planning.rehearsal import kind_of, training_speed
from transrec.protocols import Examples, Model
from transrec.runs.run_folder import load
from transrec.runs.summary import SUMMARY_FILE, read_summary
from transrec.runs.train_and_test import build_stream
from transrec.sweeps.config import Resources, Sweep
from transrec.sweeps.driver import is_finished
from transrec.sweeps.plan import RUNS_FOLDER, STAGES, Plan
from transrec.training import cost

_TIMED_STEPS = 3
Kind = str  # model, adaptation and precision of a run, as JSON


@dataclass(frozen=True)
class Work:
    """The cost of training a run; `seconds` are summed over its devices."""

    windows: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Operations per window, and windows per second, of one kind of run."""

    flops_per_window: float
    windows_per_second: float | None  # None: not measured


def forecast(sweep: Sweep, plan: Plan) -> dict[str, Work]:
    """The work of every unfinished run, by hash."""
    runs = [run for run in plan.runs.values() if not is_finished(run)]
    known = dict(_finished(sweep.storage_path))
    streams = {run.hash: _Measured.of(run.experiment) for run in runs}
    speeds: dict[Kind, Speed] = {}
    for run in runs:
        kind = kind_of(run.experiment)
        if kind not in speeds:
            speeds[kind] = known.get(kind) or Speed(streams[run.hash].flops_per_window(), None)
    with _threads_of_a_run(sweep.resources):
        for kind in _extremes(speeds):
            example = next(streams[run.hash] for run in runs if kind_of(run.experiment) == kind)
            speeds[kind] = Speed(speeds[kind].flops_per_window, example.windows_per_second())
    return {run.hash: _work(streams[run.hash].windows, kind_of(run.experiment), speeds) for run in runs}


@contextmanager
def _threads_of_a_run(resources: Resources) -> Iterator[None]:
    """Use as many threads as Ray gives a run: with more, the measured speed would exceed that of concurrent runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(resources.cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finished(storage: Path) -> Iterator[tuple[Kind, Speed]]:
    for path in storage.glob(f"*/{RUNS_FOLDER}/*/{SUMMARY_FILE}"):
        summary = read_summary(path.parent)
        if summary is None or not summary.get("flops_per_user"):
            continue
        try:
            kind, flops = kind_of(load(path.parent)), summary["flops_per_user"]
            speed = Speed(float(flops["forward"] + flops["backward"]), training_speed(summary))
        except (ConfigError, KeyError, TypeError, ValueError):  # a run of another version, or a damaged one
            continue
        yield kind, speed


def _extremes(speeds: Mapping[Kind, Speed]) -> set[Kind]:
    """The cheapest and the most expensive kind, if their speed is unknown."""
    ordered = sorted(speeds, key=lambda kind: speeds[kind].flops_per_window)
    return {kind for kind in (ordered[:1] + ordered[-1:]) if speeds[kind].windows_per_second is None}


def _work(windows: int, kind: Kind, speeds: Mapping[Kind, Speed]) -> Work:
    speed = speeds[kind]
    rate = speed.windows_per_second or _flops_per_second(speed, speeds) / speed.flops_per_window
    return Work(windows, windows * speed.flops_per_window, windows / rate)


def _flops_per_second(wanted: Speed, speeds: Mapping[Kind, Speed]) -> float:
    """Operations per second, interpolated in log-log between the cheapest and the most expensive of known speed."""
    known = sorted((s.flops_per_window, s.windows_per_second) for s in speeds.values() if s.windows_per_second)
    (low, slow), (high, fast) = known[0], known[-1]
    share = 0.0 if low == high else math.log(wanted.flops_per_window / low) / math.log(high / low)
    value: float = (low * slow) ** (1 - share) * (high * fast) ** share
    return value


@dataclass(frozen=True)
class _Measured:
    """The training data of a run, and its model for measurements, without the weights that the run starts from."""

    experiment: Experiment
    examples: Examples
    windows: int

    @classmethod
    def of(cls, experiment: Experiment) -> "_Measured":
        examples = experiment.data.scan(experiment.model.max_length)
        examples.check_training()
        windows = examples.training_size()["windows"]
        train = experiment.train
        if train.steps is not None:
            steps_per_epoch = -(-windows // train.batch_size)
            return cls(experiment, examples, round(windows * train.steps / steps_per_epoch))
        return cls(experiment, examples, windows * train.epochs)

    def build(self) -> tuple[Model, TrainStream, torch.device]:
        experiment, examples = self.experiment, self.examples
        world = World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        store = open_store(examples.folder, experiment.model.content(), experiment.data, world)
        model = experiment.model.build(examples.folder.index.counts.items)
        experiment.adaptation.apply(model)
        return model, build_stream(experiment, examples, store, world), world.device

    def flops_per_window(self) -> float:
        model, stream, device = self.build()
        measured = cost.measure(model, stream[0], device, self.experiment.train.precision != "fp32")
        return math.nan if measured is None else (measured.forward + measured.backward) / measured.users

    def windows_per_second(self) -> float:
        """The speed of forward and backward passes in a few steps after a warm-up step, without the optimizer."""
        model, stream, device = self.build()
        model.to(device).train()
        windows, began = 0, 0.0
        for number, step in enumerate(islice((stream[i] for i in range(1 + _TIMED_STEPS)), 1 + _TIMED_STEPS)):
            for batch in step:
                with torch.autocast(device.type, torch.bfloat16, enabled=self.experiment.train.precision != "fp32"):
                    losses = model(to_device(batch, device))
                torch.stack(list(losses.values())).sum().backward()
                windows += batch.size if number else 0
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number == 0:
                began = time.monotonic()
        return windows / (time.monotonic() - began)


def show(sweep: Sweep, plan: Plan, work: Mapping[str, Work]) -> Group:
    """Tables of the trials, and of the cost of their runs by stage."""
    trials = Table("trial", *plan.trials[0].axes, "run", "pretraining")
    for trial in plan.trials:
        trials.add_row(trial.name, *(str(label) for label in trial.axes.values()), trial.run, trial.source or "-")
    costs = Table("stage", "runs", "finished", "windows to train on", "PFLOPs", "device-hours")
    for stage in STAGES:
        runs = plan.of(stage)
        if runs:
            left = [work[run.hash] for run in runs if run.hash in work]
            costs.add_row(stage, str(len(runs)), str(len(runs) - len(left)), *_sums(left))
    costs.add_row("total", str(len(plan.runs)), str(len(plan.runs) - len(work)), *_sums(list(work.values())))
    costs.caption = _savings(plan, work)
    return Group(trials, costs)


def as_json(plan: Plan, work: Mapping[str, Work]) -> dict[str, Any]:
    """The numbers of both tables, in operations and device-seconds."""
    trials = [
        {"trial": trial.name, "axes": dict(trial.axes), "run": trial.run, "pretraining": trial.source}
        for trial in plan.trials
    ]
    stages = {}
    for stage in STAGES:
        runs = plan.of(stage)
        left = [work[run.hash] for run in runs if run.hash in work]
        stages[stage] = {"runs": len(runs), "finished": len(runs) - len(left), **_totals(left)}
    total = {"runs": len(plan.runs), "finished": len(plan.runs) - len(work), **_totals(list(work.values()))}
    return {"trials": trials, "stages": stages, "total": total}


def _totals(work: list[Work]) -> dict[str, float]:
    return {
        "windows": sum(one.windows for one in work),
        "flops": sum(one.flops for one in work),
        "device_seconds": sum(one.seconds for one in work),
    }


def _sums(work: list[Work]) -> list[str]:
    hours = sum(one.seconds for one in work) / 3600
    return [f"{sum(one.windows for one in work):,}", f"{sum(one.flops for one in work) / 1e15:,.3g}", f"{hours:,.2g}"]


def _savings(plan: Plan, work: Mapping[str, Work]) -> str:
    """The saving from shared pretrainings, in device-hours."""
    sources = [trial.source for trial in plan.trials if trial.source is not None]
    if not sources:
        return ""
    alone = sum(work[source].seconds for source in sources if source in work)
    shared = sum(work[source].seconds for source in set(sources) if source in work)
    return f"{len(sources)} trials share {len(set(sources))} pretrainings, which saves {(alone - shared) / 3600:,.2g} h"
