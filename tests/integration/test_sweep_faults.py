"""Sweeps on Ray in which something goes wrong, and those that are more than one process a trial."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import short_memory
import torch
from commands import ENVIRONMENT, REPOSITORY, LaunchedCommands, Running
from run_folder import exported, losses, records
from tiny_sweeps import finished, left, write_sweep
from tiny_world import build_shards

pytestmark = pytest.mark.slow

NO_DROPOUT = "target.model.user_encoder.dropout=0"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(tmp_path_factory.mktemp("sweep") / "shards")


def done(folder: Path, shards: Path, *overrides: str, **changes: object) -> Path:
    """The folder of a sweep that nothing happened to."""
    folder.mkdir(exist_ok=True)
    config = write_sweep(folder, shards, **changes)
    ended = LaunchedCommands(folder).start("sweep", "--config", config, *overrides).wait(1200)
    assert ended.code == 0, ended.stderr
    return folder / "storage" / "tiny"


def runs(sweep: Path) -> dict[str, Path]:
    return {path.name: path for path in (sweep / "runs").iterdir()}


def test_a_trial_out_of_memory_goes_on_with_half_its_micro_batch(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests' / 'support'}")
    for name, value in short_memory.SETUP.items():
        monkeypatch.setenv(name, value)
    sweep = done(tmp_path, shards, source=None, grid={"method": {"full": {"target.adaptation.name": "full"}}})
    (record,) = left(tmp_path)
    assert record.status == "done"
    assert record.notes == ["out of memory: train.accumulation 1 -> 2"]
    assert [path.name for path in sorted((sweep / "tune").iterdir())] == ["adaptation-000", "adaptation-001"]
    assert len(losses(sweep / record.run)) == 20
    report = LaunchedCommands(tmp_path).start("report", sweep).wait(300)
    assert report.code == 0, report.stderr
    assert record.notes[0] in (sweep / "report" / "report.md").read_text(encoding="utf-8")


def test_killed_workers_change_no_result_and_repeat_no_pretraining(shards: Path, tmp_path: Path) -> None:
    """One pretraining and one adaptation are killed in the middle, and go on from their checkpoints."""
    longer = ["source.train.steps=200", "target.train.steps=200"]
    grid = {"size": {"source.data.fraction": [0.3, 1.0]}}
    undisturbed = runs(done(tmp_path / "undisturbed", shards, *longer, grid=grid))
    folder = tmp_path / "killed"
    folder.mkdir()
    config = write_sweep(folder, shards, grid=grid, concurrent=1)
    running = LaunchedCommands(folder).start("sweep", "--config", config, *longer)
    killed = [kill_one(running, folder, after=0)]
    running.wait_until(lambda: len(finished(folder)) >= 2, timeout=900)
    pretrained = finished(folder)
    killed.append(kill_one(running, folder, after=2))
    ended = running.wait(900)
    assert ended.code == 0, ended.stderr
    assert [record.status for record in left(folder)] == ["done"] * 2
    assert {name: finished(folder)[name] for name in pretrained} == pretrained
    tried = {path.name: len(list(path.glob("run_trial*"))) for path in (folder / "storage/tiny/tune").iterdir()}
    assert tried == {"pretraining-000": 2, "pretraining-001": 1, "adaptation-000": 2, "adaptation-001": 1}
    again = runs(folder / "storage" / "tiny")
    assert again.keys() == undisturbed.keys()
    for name, run in again.items():
        assert pq.read_table(run / "test_users.parquet") == pq.read_table(undisturbed[name] / "test_users.parquet")
        assert losses(run) == losses(undisturbed[name])
    assert set(killed) <= again.keys()


def kill_one(running: Running, folder: Path, after: int) -> str:
    """SIGKILL the process of a run that has a checkpoint and is not at its end; `after` so many finished ones."""
    found: list[tuple[int, str]] = []

    def in_the_middle() -> bool:
        found[:] = [
            (pid, run.name)
            for run in folder.glob("storage/tiny/runs/*")
            if len(finished(folder)) >= after and run.name not in finished(folder)
            if list(run.glob("checkpoints/step-*/state.json"))
            for pid in writers(run / "metrics.jsonl")
        ]
        return bool(found)

    running.wait_until(in_the_middle, timeout=900)
    pid, name = found[0]
    os.kill(pid, signal.SIGKILL)
    return name


def writers(path: Path) -> list[int]:
    """Processes that have `path` open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path.resolve():
                found.append(int(link.parts[2]))
        except OSError:  # not ours, or gone
            continue
    return found


def test_a_trial_of_two_workers_is_the_trial_of_one(shards: Path, tmp_path: Path) -> None:
    """Ray Train's two ranks share the global batch that one process takes in a piece."""
    both = [
        done(tmp_path / str(workers), shards, NO_DROPOUT, source=None, grid={}, resources={"workers": workers})
        for workers in (1, 2)
    ]
    (one,), (two,) = (runs(sweep).values() for sweep in both)
    assert one.name == two.name
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    for name, tensor in exported(one).items():
        torch.testing.assert_close(exported(two)[name], tensor, rtol=1e-3, atol=1e-5)
    users = [pq.read_table(run / "test_users.parquet") for run in (one, two)]
    assert users[0]["user_id"] == users[1]["user_id"]
    assert users[0]["loss"].to_pylist() == pytest.approx(users[1]["loss"].to_pylist(), rel=1e-3)


def test_early_stopping_leaves_the_largest_size_whole(shards: Path, tmp_path: Path) -> None:
    """Two rates at each of four sizes, the useless one last: stopped for the other of its size, the largest not."""
    grid = {"rate": {"target.optimizer.lr.head": [1e-2, 1e-9]}, "size": {"target.data.fraction": [0.2, 0.3, 0.5, 1.0]}}
    stopping = {"name": "asha", "grace": 50, "factor": 2}
    more = ["target.train.steps=1000", "target.train.evaluate_every=50", "target.train.patience=null"]
    sweep = done(tmp_path, shards, *more, source=None, grid=grid, fit=["size"], stopping=stopping)
    told = left(tmp_path)
    assert {record.status for record in told if record.axes["size"] == 1.0} == {"done"}
    stopped = [(record.axes["rate"], record.axes["size"]) for record in told if record.status == "stopped"]
    assert stopped == [(1e-9, 0.2), (1e-9, 0.3), (1e-9, 0.5)]
    for record in told:
        (last,) = records(sweep / record.run, "valid")[-1:]
        assert (last["step"] == 1000) == (record.status == "done")
    again = LaunchedCommands(tmp_path).start("sweep", "--config", tmp_path / "sweep.yaml", *more, "--resume").wait(300)
    assert again.code == 0, again.stderr
    assert left(tmp_path) == told


def test_median_stopping_ends_what_is_worse_than_most_and_pauses_nothing(shards: Path, tmp_path: Path) -> None:
    """The rule wants three others to compare with: until then runs go on, rather than make way and begin anew."""
    grid = {"rate": {"target.optimizer.lr.head": [1e-2, 5e-3, 2e-2, 1.5e-2, 1e-9]}}
    more = [
        f"target.train.{it}" for it in ("steps=200", "evaluate_every=50", "checkpoint_every=never", "patience=null")
    ]
    sweep = done(tmp_path, shards, *more, source=None, grid=grid, stopping={"name": "median", "grace": 50})
    told = left(tmp_path)
    assert {record.status for record in told[:2]} == {"done"}  # nobody was there yet to be behind of
    assert (told[-1].axes["rate"], told[-1].status) == (1e-9, "stopped")
    for record in told:
        assert len(records(sweep / record.run, "start")) == 1
        (last,) = records(sweep / record.run, "valid")[-1:]
        assert (last["step"] == 200) == (record.status == "done")


def test_a_trial_that_fails_is_a_line_of_the_table_also_with_a_long_folder_of_temporary_files(
    shards: Path, tmp_path: Path
) -> None:
    """Ray has a traceback of its own for it, and sockets whose names have a limit."""
    long = tmp_path / ("temporary-" * 8)
    long.mkdir()
    config = write_sweep(
        tmp_path, shards, source=None, retries=0, grid={"rate": {"target.optimizer.lr.head": [1e-3, 1e30]}}
    )
    ended = LaunchedCommands(tmp_path, TMPDIR=str(long)).start("sweep", "--config", config).wait(600)
    assert ended.code == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "1 failed" in ended.stderr
    (failed,) = [record for record in left(tmp_path) if record.status == "failed"]
    assert failed.error is not None
    assert "not finite" in failed.error or "is nan" in failed.error
