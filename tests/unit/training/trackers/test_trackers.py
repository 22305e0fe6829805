"""Every tracker shows every point of a run once, however often the run is killed and resumed."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from tracked import NAMES, needs, points

from transrec.training.records import Records
from transrec.training.trackers import TrackerConfig
from transrec.training.trackers.csv_table import CsvTable
from transrec.training.trackers.tracker import Row, TrackerError

CHOICE: TypeAdapter[TrackerConfig] = TypeAdapter(TrackerConfig)
EVERY_TRACKER = pytest.mark.parametrize("name", NAMES)


def killed(folder: Path, name: str, last: int) -> None:
    """Records steps 1 to `last`, with a checkpoint after step 2, in a process that is killed then."""
    process = multiprocessing.get_context("spawn").Process(target=_record_and_die, args=(folder, name, last))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _record_and_die(folder: Path, name: str, last: int) -> None:
    os.setsid()
    os.environ.pop("WANDB_SERVICE", None)  # the process of W&B that the tests began would outlive this one
    records = opened(folder, [name], 0)
    add(records, 1, last)
    records.flush()
    os.killpg(0, signal.SIGKILL)


def opened(folder: Path, names: Sequence[str], start: int, finished: bool = False) -> Records:
    return Records(folder, start, 10, [CHOICE.validate_python(name) for name in names], {"seed": 3}, finished)


def add(records: Records, first: int, last: int) -> None:
    for step in range(first, last + 1):
        records.scalars(step, {"train/loss": 1 / step, "perf/speed": 100.0 + first})
        if step % 2 == 0:
            records.scalars(step, {"valid/HR@10": step / 10})
        if step == 2:
            records.flush()


def finish(folder: Path, names: Sequence[str], first: int, last: int) -> None:
    records = opened(folder, names, first - 1, finished=first > last)
    add(records, first, last)
    records.results(last, {"test/HR@10": 0.25})
    records.close()


LOSSES = [(step, pytest.approx(1 / step)) for step in range(1, 7)]
VALIDATIONS = [(step, pytest.approx(step / 10)) for step in (2, 4, 6)]


@EVERY_TRACKER
def test_a_killed_run_shows_no_step_twice_and_loses_none(tmp_path: Path, name: str) -> None:
    needs(name)
    killed(tmp_path, name, 5)
    finish(tmp_path, [name], 3, 6)  # the checkpoint is of step 2
    for _ in range(2):
        found = points(name, tmp_path)
        assert found["train/loss"] == LOSSES
        assert found["valid/HR@10"] == VALIDATIONS
        assert [step for step, _ in found["perf/speed"]] == [1, 2, 3, 4, 5, 6]
        assert found["test/HR@10"] == [(6, 0.25)]
        finish(tmp_path, [name], 7, 6)  # a finished run that is started again


@EVERY_TRACKER
def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, name: str) -> None:
    needs(name)
    killed(tmp_path, name, 1)
    finish(tmp_path, [name], 1, 6)
    assert points(name, tmp_path)["train/loss"] == LOSSES


@EVERY_TRACKER
def test_a_tracker_that_is_added_on_resuming_shows_the_run_from_its_start(tmp_path: Path, name: str) -> None:
    needs(name)
    other = "csv" if name == "tensorboard" else "tensorboard"
    finish(tmp_path, [other], 1, 4)
    finish(tmp_path, [other, name], 5, 6)
    assert points(name, tmp_path)["train/loss"] == LOSSES


@EVERY_TRACKER
def test_a_finished_run_that_is_trained_longer_keeps_its_first_results(tmp_path: Path, name: str) -> None:
    needs(name)
    finish(tmp_path, [name], 1, 4)
    finish(tmp_path, [name], 5, 6)
    found = points(name, tmp_path)
    assert found["train/loss"] == LOSSES
    assert found["test/HR@10"] == [(4, 0.25), (6, 0.25)]


def test_ten_runs_within_a_few_seconds_are_read_in_their_order(tmp_path: Path) -> None:
    for step in range(1, 11):  # the tenth file of a process has a longer number in its name
        finish(tmp_path, ["tensorboard"], step, step)
    assert [step for step, _ in points("tensorboard", tmp_path)["train/loss"]] == list(range(1, 11))


def test_a_name_stands_for_the_tracker_with_its_defaults() -> None:
    assert CHOICE.validate_python("csv") == CHOICE.validate_python({"name": "csv"})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        CHOICE.validate_python("clearml")


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(table: object, row: Row) -> None:
        raise TrackerError("csv failed (no network): look at the cable")

    records = Records(tmp_path, 0, 10, [CHOICE.validate_python("csv"), CHOICE.validate_python("tensorboard")])
    monkeypatch.setattr(CsvTable, "scalars", fail)
    for step in (1, 2):
        records.scalars(step, {"train/loss": 1.0})
    records.close()
    assert capsys.readouterr().err.count("csv failed (no network): look at the cable. The run goes on") == 1
    assert points("tensorboard", tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0)]
