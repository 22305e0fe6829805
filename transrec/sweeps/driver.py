"""Carries out a plan: pretrainings, then what starts from them; knows what is finished, and what to do about failures.

Everything lies in the sweep's folder and is found there by a later driver: a run is finished when it has its
`summary.json`, wherever in the storage it was made; one that is not goes on from its own checkpoint. So a driver may be
killed at any moment, and the storage may be moved.

How runs are executed is given: `ray_executor.py` does it on Ray. Considered for going on after a failure: Ray Tune's
own `Tuner.restore` (bound to one search space and one path, and its state is a pickle) and its `max_failures` (does the
same again, so a run that is too large for memory fails again).
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from transrec.config import ConfigError, dump
from transrec.errors import TransRecError
from transrec.files import write_text, writing
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
    """A sweep that cannot be begun or gone on with; the message says what to do."""


@dataclass
class RunState:
    """What is known of a run; `attempts` counts the failures of this driver."""

    status: Status = "pending"
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    attempts: int = 0
    accumulation: int | None = None  # in place of the configured one


Settle = Callable[[str, str | None], None]  # (hash of a run that ended, its error)
Execute = Callable[[Sequence[Run], Settle], None]  # returns when all of them have ended, or been interrupted


class Driver:
    """One sweep, from what lies in its folder to its end."""

    def __init__(self, sweep: Sweep, plan: Plan) -> None:
        self.sweep, self.plan, self.folder = sweep, plan, sweep.folder
        self.states = {name: RunState() for name in plan.runs}
        self.changed: Callable[[], None] = lambda: None

    def open(self, resume: bool) -> None:
        """Begin the folder, or take up what is in it.

        Raises:
            SweepError: there is a sweep and `resume` is not set.
        """
        if (self.folder / SWEEP_FILE).exists() and not resume:
            raise SweepError(f"{self.folder} holds a sweep: go on with --resume, or choose another `name`")
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
        """Every run that can be done, some of them more than once.

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
        """Runs of a stage that are to be done and whose source is, as they are to be done now."""
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
        """Cut micro-batches in two, once; the global batch stays."""
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
        """Of an earlier driver: what was stopped stays so, what ran out of memory keeps its smaller micro-batches."""
        try:
            known = records.read(self.folder)
        except RecordsError:  # a new folder, or one whose list was lost: the runs themselves are found anyway
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


def lock_storage(sweep: Sweep) -> AbstractContextManager[object]:
    """One driver a storage, or two would make the same pretraining. The lock dies with its owner.

    Raises:
        SweepError: another driver is at work.
    """
    with writing(sweep.storage_path):
        sweep.storage_path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep.storage_path / ".driver.lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        raise SweepError(
            f"another sweep is at work in {sweep.storage_path}: wait for its end, or choose another storage_path"
        ) from None


def is_finished(run: Run) -> bool:
    """Whether a run was tested."""
    return (run.experiment.run_dir / SUMMARY_FILE).exists()


def is_out_of_memory(error: str) -> bool:
    """Whether the text of an error says that memory ran out, on the host or on a device."""
    return any(sign in error for sign in _OUT_OF_MEMORY)


def _with_accumulation(run: Run, accumulation: int | None) -> Run:
    if accumulation is None:
        return run
    train = run.experiment.train.model_copy(update={"accumulation": accumulation})
    return replace(run, experiment=run.experiment.model_copy(update={"train": train}))


def _link_if_finished_elsewhere(run: Run, storage: Path) -> None:
    """A run that another sweep of the storage has finished; relative, so the storage can be moved."""
    here = run.experiment.run_dir
    found = next(storage.absolute().glob(f"*/{RUNS_FOLDER}/{run.hash}/{SUMMARY_FILE}"), None)
    if found is not None and not here.exists() and not here.is_symlink():
        here.symlink_to(os.path.relpath(found.parent.resolve(), here.parent.resolve()))


def _rewrite_paths(run: Run) -> None:
    """Where the storage was moved, a run's configuration still names its old place and that of its source."""
    path = run.experiment.run_dir / CONFIG_FILE
    if not path.exists() or run.experiment.run_dir.is_symlink():
        return
    try:
        there = load(run.experiment.run_dir)
    except ConfigError as error:
        raise SweepError(f"{path} cannot be read ({error}): remove {path.parent} to have it made again") from None
    here = dump(there.model_copy(update={"run_dir": run.experiment.run_dir, "init_from": run.experiment.init_from}))
    if here != path.read_text(encoding="utf-8"):
        write_text(path, here)
