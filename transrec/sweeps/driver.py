"""Carries out a plan: pretrainings first, then the adaptations that start from them; retries failed runs.

All state is kept in the sweep's folder, where a later driver finds it: a run is finished once it has a `summary.json`,
whichever sweep in the storage trained it; an unfinished run resumes from its own checkpoint. A driver can therefore
be killed at any moment, and the storage can be moved.

The caller supplies the function that executes runs; `ray_executor.py` has one for Ray. Considered for recovery from
failures: Ray Tune's own `Tuner.restore` (bound to one search space and one path, and its state is a pickle) and its
`max_failures` (retries an unchanged run, so one that is too large for memory fails again).
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from transrec.config import ConfigError, dump
from transrec.errors import TransRecError
from transrec.files import write_text, writing
from transrec.locks import sole_owner
from transrec.runs.run_folder import CONFIG_FILE, load
from transrec.runs.summary import SUMMARY_FILE
from transrec.sweeps import records
from transrec.sweeps.config import Sweep
from transrec.sweeps.plan import RUNS_FOLDER, STAGES, Plan, Run, Trial
from transrec.sweeps.records import Record, RecordsError, Status

SWEEP_FILE = "sweep.yaml"
_OUT_OF_MEMORY = (
    "MemoryError",
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "OutOfMemoryError",
    "running low on memory",  # Ray's memory monitor
)


class SweepError(TransRecError, RuntimeError):
    """The sweep can be neither started nor resumed; the message states the remedy."""


@dataclass
class RunState:
    """The state of a run; `attempts` counts its failures under this driver."""

    status: Status = "pending"
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    attempts: int = 0
    accumulation: int | None = None  # overrides the configured value


Settle = Callable[[str, str | None], None]  # (hash of a run that ended, its error or None)
Execute = Callable[[Sequence[Run], Settle], None]  # returns when all runs have ended or were interrupted


class Driver:
    """Carries out one sweep, starting from the state in its folder."""

    def __init__(self, sweep: Sweep, plan: Plan) -> None:
        self.sweep, self.plan, self.folder = sweep, plan, sweep.folder
        self.states = {name: RunState() for name in plan.runs}
        self.changed: Callable[[], None] = lambda: None

    def open(self, resume: bool) -> None:
        """Create the sweep's folder, or load the state in it.

        Raises:
            SweepError: the folder holds a sweep and `resume` is not set.
        """
        if (self.folder / SWEEP_FILE).exists() and not resume:
            raise SweepError(f"{self.folder} already holds a sweep: resume it with --resume, or choose another `name`")
        with writing(self.folder):
            (self.folder / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
        self._remember()
        for run in self.plan.runs.values():
            _link_if_finished_elsewhere(run, self.sweep.storage_path)
            _rewrite_paths(run)
            if is_finished(run):
                self.states[run.hash].status = "done"
        write_text(self.folder / SWEEP_FILE, dump(self.sweep))
        self._write()

    def carry_out(self, execute: Execute) -> None:
        """Execute every run whose source is done, and retry those that fail.

        Raises:
            KeyboardInterrupt: the execution was interrupted.
        """
        for stage in STAGES:
            while waiting := self._waiting(stage):
                execute(waiting, self._settle)
                if any(self._is_untouched(run) for run in waiting):
                    raise KeyboardInterrupt
        self._write()

    def records(self) -> list[Record]:
        return [self._record(trial) for trial in self.plan.trials]

    def _waiting(self, stage: str) -> list[Run]:
        """The pending runs of a stage whose source is done, with their current accumulation."""
        runs = [run for run in self.plan.runs.values() if run.stage == stage]
        ready = [run for run in runs if self.states[run.hash].status == "pending" and self._has_source(run)]
        for run in ready:
            self.states[run.hash].error = None
        return [_with_accumulation(run, self.states[run.hash].accumulation) for run in ready]

    def _has_source(self, run: Run) -> bool:
        return run.source is None or self.states[run.source].status == "done"

    def _is_untouched(self, run: Run) -> bool:
        state = self.states[run.hash]
        return state.status == "pending" and state.error is None

    def _settle(self, name: str, error: str | None) -> None:
        state, run = self.states[name], self.plan.runs[name]
        if error is None:
            state.status = "done" if is_finished(run) else "stopped"
        else:
            state.error = error
            if not (is_out_of_memory(error) and self._halve(run, state)):
                state.attempts += 1
            if state.attempts > self.sweep.retries:
                state.status = "failed"
        self._write()

    def _halve(self, run: Run, state: RunState) -> bool:
        """Halve the micro-batches of a run, at most once; the global batch size stays the same."""
        train, ranks = run.experiment.train, self.sweep.resources.workers
        if state.accumulation is not None or train.batch_size % (2 * train.accumulation * ranks):
            return False
        state.accumulation = 2 * train.accumulation
        state.notes.append(f"out of memory: train.accumulation {train.accumulation} -> {state.accumulation}")
        return True

    def _record(self, trial: Trial) -> Record:
        state = self.states[trial.run]
        status, error, notes = state.status, state.error, list(state.notes)
        if trial.source is not None:
            source = self.states[trial.source]
            notes = [f"pretraining: {note}" for note in source.notes] + notes
            if source.status == "failed" and status == "pending":
                status, error = "failed", f"its pretraining failed: {source.error}"
        source_run = None if trial.source is None else f"{RUNS_FOLDER}/{trial.source}"
        error = error if status == "failed" else None
        return Record(trial.name, trial.axes, f"{RUNS_FOLDER}/{trial.run}", source_run, status, error, notes)

    def _remember(self) -> None:
        """Restore an earlier driver's stopped runs, notes and halved micro-batches."""
        try:
            known = records.read(self.folder)
        except RecordsError:  # a new folder, or the list is lost; finished runs are found without it
            known = []
        for record in known:
            state = self.states.get(Path(record.run).name)
            if state is not None and record.status == "stopped":
                state.status = "stopped"
            if state is not None and not state.notes:
                state.notes = [note for note in record.notes if not note.startswith("pretraining: ")]
        for run in self.plan.runs.values():
            if (run.experiment.run_dir / CONFIG_FILE).exists():
                there = load(run.experiment.run_dir).train.accumulation
                if there == 2 * run.experiment.train.accumulation:
                    self.states[run.hash].accumulation = there

    def _write(self) -> None:
        records.write(self.folder, self.records())
        self.changed()


def lock_storage(sweep: Sweep) -> AbstractContextManager[None]:
    """Lock the storage, because two drivers would train the same pretraining.

    Raises:
        BusyError: another driver is running; the message names its process.
        StorageError: the storage cannot be written.
    """
    with writing(sweep.storage_path):
        sweep.storage_path.mkdir(parents=True, exist_ok=True)
    doing = f"a sweep is being run in {sweep.storage_path}"
    return sole_owner(sweep.storage_path / ".driver.lock", doing, "choose another storage_path")


def is_finished(run: Run) -> bool:
    """Whether a run is finished, that is, tested."""
    return (run.experiment.run_dir / SUMMARY_FILE).exists()


def is_out_of_memory(error: str) -> bool:
    """Whether an error text reports that the host or a device ran out of memory."""
    return any(sign in error for sign in _OUT_OF_MEMORY)


def _with_accumulation(run: Run, accumulation: int | None) -> Run:
    if accumulation is None:
        return run
    train = run.experiment.train.model_copy(update={"accumulation": accumulation})
    return replace(run, experiment=run.experiment.model_copy(update={"train": train}))


def _link_if_finished_elsewhere(run: Run, storage: Path) -> None:
    """Link to the run if another sweep in the storage finished it; relatively, so that the storage can be moved."""
    here = run.experiment.run_dir
    found = next(storage.absolute().glob(f"*/{RUNS_FOLDER}/{run.hash}/{SUMMARY_FILE}"), None)
    if found is not None and not here.exists() and not here.is_symlink():
        here.symlink_to(os.path.relpath(found.parent.resolve(), here.parent.resolve()))


def _rewrite_paths(run: Run) -> None:
    """Update the paths of the run and its source in the run's configuration, in case the storage was moved."""
    path = run.experiment.run_dir / CONFIG_FILE
    if not path.exists() or run.experiment.run_dir.is_symlink():
        return
    try:
        there = load(run.experiment.run_dir)
    except ConfigError as error:
        raise SweepError(f"{path} cannot be read ({error}): remove {path.parent} to train the run again") from None
    here = dump(there.model_copy(update={"run_dir": run.experiment.run_dir, "init_from": run.experiment.init_from}))
    if here != path.read_text(encoding="utf-8"):
        write_text(path, here)
