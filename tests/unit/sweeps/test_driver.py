"""What is run, in which order and how often: with an executor that trains nothing but leaves what a run leaves."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from transrec.config import dump, read_yaml
from transrec.locks import BusyError
from transrec.runs.run_folder import CONFIG_FILE
from transrec.runs.summary import SUMMARY_FILE
from transrec.sweeps import records
from transrec.sweeps.config import Sweep
from transrec.sweeps.driver import Driver, Settle, SweepError, is_out_of_memory, lock_storage
from transrec.sweeps.forecast import forecast
from transrec.sweeps.plan import Run, make_plan

GRID = {
    "size": {"source.data.fraction": [0.5, 1.0]},
    "method": {"full": {"target.adaptation.name": "full"}, "head": {"target.adaptation.name": "head_only"}},
}
MEMORY = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


class Killed(BaseException):
    """The driver was killed."""


class Recorder:
    """Executes runs by writing their files. `failures`: hash -> errors, one for each attempt to come."""

    def __init__(self, failures: dict[str, list[str]] | None = None, dies_after: int | None = None) -> None:
        self.failures, self.dies_after = failures or {}, dies_after
        self.stops: set[str] = set()
        self.executed: list[Run] = []

    def __call__(self, runs: Sequence[Run], settle: Settle) -> None:
        for run in runs:
            if self.dies_after == len(self.executed):
                raise Killed
            self.executed.append(run)
            folder = run.experiment.run_dir
            folder.mkdir(exist_ok=True)
            (folder / CONFIG_FILE).write_text(dump(run.experiment))
            if errors := self.failures.get(run.hash):
                settle(run.hash, errors.pop(0))
            else:
                if run.hash not in self.stops:
                    (folder / SUMMARY_FILE).write_text("{}")
                settle(run.hash, None)

    def times(self) -> Counter[str]:
        return Counter(run.hash for run in self.executed)


def drive(sweep: Sweep, execute: Recorder, resume: bool = False) -> Driver:
    driver = Driver(sweep, make_plan(sweep))
    driver.open(resume)
    driver.carry_out(execute)
    return driver


def statuses(sweep: Sweep) -> list[str]:
    return [record.status for record in records.read(sweep.folder)]


def test_pretrainings_come_first_and_everything_once(make_sweep: Any) -> None:
    sweep, execute = make_sweep(grid=GRID), Recorder()
    drive(sweep, execute)
    assert [run.stage for run in execute.executed] == ["pretraining"] * 2 + ["adaptation"] * 4
    assert set(execute.times().values()) == {1}
    assert statuses(sweep) == ["done"] * 4
    for record in records.read(sweep.folder):
        assert (sweep.folder / record.run / SUMMARY_FILE).exists()
        assert (sweep.folder / record.source_run / SUMMARY_FILE).exists()


def test_a_sweep_is_not_begun_twice_by_mistake(make_sweep: Any) -> None:
    sweep = make_sweep(grid=GRID)
    drive(sweep, Recorder())
    with pytest.raises(SweepError, match="--resume"):
        drive(sweep, Recorder())


@pytest.mark.parametrize("dies_after", range(6))
def test_a_killed_driver_leaves_the_rest_to_the_next(make_sweep: Any, dies_after: int) -> None:
    sweep, first, second = make_sweep(grid=GRID), Recorder(dies_after=dies_after), Recorder()
    with pytest.raises(Killed):
        drive(sweep, first)
    assert statuses(sweep).count("pending") == 4 - max(0, dies_after - 2)
    drive(sweep, second, resume=True)
    assert first.times() + second.times() == Counter(make_plan(sweep).runs.keys())
    assert statuses(sweep) == ["done"] * 4


def test_finished_runs_are_found_in_other_sweeps_of_the_storage(make_sweep: Any) -> None:
    drive(make_sweep(grid=GRID, name="one"), Recorder())
    more = GRID | {"size": {"source.data.fraction": [0.5, 0.75, 1.0]}}
    sweep, execute = make_sweep(grid=more, name="two"), Recorder()
    drive(sweep, execute)
    assert [run.stage for run in execute.executed] == ["pretraining", "adaptation", "adaptation"]
    assert all(run.source is None or run.source == execute.executed[0].hash for run in execute.executed)
    assert all((sweep.folder / record.run / SUMMARY_FILE).exists() for record in records.read(sweep.folder))


def test_a_sweep_goes_on_with_a_changed_grid(make_sweep: Any) -> None:
    drive(make_sweep(grid=GRID), Recorder())
    fewer_and_others = GRID | {"size": {"source.data.fraction": [1.0, 0.25]}}
    sweep, execute = make_sweep(grid=fewer_and_others), Recorder()
    drive(sweep, execute, resume=True)
    assert len(execute.executed) == 3
    assert statuses(sweep) == ["done"] * 4


def test_a_moved_storage_is_whole(make_sweep: Any, tmp_path: Path) -> None:
    before = make_sweep(grid=GRID)
    with pytest.raises(Killed):
        drive(before, Recorder(dies_after=5))
    shutil.move(before.storage_path, tmp_path / "moved")
    sweep, execute = make_sweep(grid=GRID, storage_path=str(tmp_path / "moved")), Recorder()
    driver = Driver(sweep, make_plan(sweep))
    driver.open(resume=True)
    for run in driver.plan.runs.values():
        if run.experiment.run_dir.exists():
            there = read_yaml(run.experiment.run_dir / CONFIG_FILE)
            assert there["run_dir"] == str(run.experiment.run_dir)
            assert there["init_from"] == (str(run.experiment.init_from) if run.source else None)
    driver.carry_out(execute)
    assert len(execute.executed) == 1
    assert statuses(sweep) == ["done"] * 4


def test_finished_runs_of_an_earlier_version_are_read(make_sweep: Any) -> None:
    """Their data has `task`; they are known to the driver and to the forecast."""
    sweep = make_sweep(grid=GRID)
    drive(sweep, Recorder())
    pretraining = next(run for run in make_plan(sweep).runs.values() if run.source is None)
    values = read_yaml(pretraining.experiment.run_dir / CONFIG_FILE)
    del values["data"]["examples"]
    values["data"]["task"] = None
    (pretraining.experiment.run_dir / CONFIG_FILE).write_text(yaml.safe_dump(values))
    measured = {"flops_per_user": {"forward": 2.0, "backward": 4.0}, "users_per_second": 10.0}
    (pretraining.experiment.run_dir / SUMMARY_FILE).write_text(json.dumps(measured))
    execute = Recorder()
    drive(sweep, execute, resume=True)
    assert not execute.executed
    assert forecast(sweep, make_plan(sweep)) == {}


DAMAGED = [
    {"flops_per_user": {"forward": 2.0}, "users_per_second": 10.0},
    {"flops_per_user": 6.0, "users_per_second": 10.0},
    {"flops_per_user": {"forward": "2", "backward": 4.0}, "users_per_second": 10.0},
    {"flops_per_user": {"forward": 2.0, "backward": 4.0}},
    {"flops_per_user": {"forward": 2.0, "backward": 4.0}, "users_per_second": "fast"},
]


@pytest.mark.parametrize("measured", DAMAGED)
def test_a_damaged_summary_is_no_part_of_a_forecast(make_sweep: Any, measured: dict[str, Any]) -> None:
    sweep = make_sweep()
    drive(sweep, Recorder())
    for run in make_plan(sweep).runs.values():
        (run.experiment.run_dir / SUMMARY_FILE).write_text(json.dumps(measured))
    assert forecast(sweep, make_plan(sweep)) == {}


def test_a_failure_is_tried_again_and_then_told(make_sweep: Any) -> None:
    sweep = make_sweep(grid=GRID, retries=1)
    adaptations = [run.hash for run in make_plan(sweep).of("adaptation")]
    execute = Recorder({adaptations[0]: ["once"], adaptations[1]: ["once", "and again"]})
    drive(sweep, execute)
    assert execute.times()[adaptations[0]] == execute.times()[adaptations[1]] == 2
    assert statuses(sweep) == ["done", "failed", "done", "done"]
    assert [record.error for record in records.read(sweep.folder)] == [None, "and again", None, None]
    again = Recorder()
    drive(sweep, again, resume=True)
    assert [run.hash for run in again.executed] == [adaptations[1]]
    assert statuses(sweep) == ["done"] * 4


def test_what_starts_from_a_failed_pretraining_fails_with_its_error(make_sweep: Any) -> None:
    sweep = make_sweep(grid=GRID, retries=0)
    execute = Recorder({make_plan(sweep).of("pretraining")[0].hash: ["no disk"]})
    drive(sweep, execute)
    assert statuses(sweep) == ["failed", "failed", "done", "done"]
    assert records.read(sweep.folder)[0].error == "its pretraining failed: no disk"
    assert len(execute.executed) == 4


def test_a_run_out_of_memory_goes_on_with_half_the_micro_batch_once(make_sweep: Any) -> None:
    sweep = make_sweep(grid=GRID, retries=0)
    small, large = (run.hash for run in make_plan(sweep).of("pretraining"))
    execute = Recorder({small: [MEMORY], large: [MEMORY, MEMORY]})
    drive(sweep, execute)
    tried = [run.experiment.train for run in execute.executed if run.hash == small]
    assert [train.accumulation for train in tried] == [1, 2]
    assert tried[0].batch_size == tried[1].batch_size
    assert statuses(sweep) == ["done", "done", "failed", "failed"]
    assert records.read(sweep.folder)[0].notes == ["pretraining: out of memory: train.accumulation 1 -> 2"]
    assert execute.times()[large] == 2


def test_smaller_micro_batches_outlive_the_driver(make_sweep: Any) -> None:
    sweep = make_sweep(grid=GRID)
    name = make_plan(sweep).of("adaptation")[3].hash
    with pytest.raises(Killed):
        drive(sweep, Recorder({name: [MEMORY, "killed"]}, dies_after=7))
    again = Recorder()
    drive(sweep, again, resume=True)
    assert [run.experiment.train.accumulation for run in again.executed] == [2]
    assert records.read(sweep.folder)[3].notes == ["out of memory: train.accumulation 1 -> 2"]


def test_what_was_stopped_early_stays_stopped(make_sweep: Any) -> None:
    sweep, execute = make_sweep(grid=GRID), Recorder()
    execute.stops = {make_plan(sweep).of("adaptation")[1].hash}
    drive(sweep, execute)
    assert statuses(sweep) == ["done", "stopped", "done", "done"]
    again = Recorder()
    drive(sweep, again, resume=True)
    assert not again.executed
    assert statuses(sweep) == ["done", "stopped", "done", "done"]


def test_an_executor_that_gives_up_is_an_interruption(make_sweep: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(make_sweep(grid=GRID), lambda runs, settle: settle(runs[0].hash, None))  # type: ignore[arg-type]


def test_a_storage_has_one_driver(make_sweep: Any) -> None:
    refusal = rf"a sweep is being run in .* by process {os.getpid()} on .*: wait until it ends, or choose another stor"
    with lock_storage(make_sweep()), pytest.raises(BusyError, match=refusal):  # noqa: SIM117
        with lock_storage(make_sweep(name="other")):
            pytest.fail("two drivers own one storage")
    with lock_storage(make_sweep()):
        pass


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MEMORY, True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", True),
        ("MemoryError: ", True),
        ("OutOfMemoryError: Task was killed due to the node running low on memory.", True),
        ("ConfigError: `train.batch_size` 3 must be divisible by 2", False),
        ("StorageError: cannot write x: No space left on device", False),
    ],
)
def test_which_errors_are_for_want_of_memory(error: str, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
