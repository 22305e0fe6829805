"""`launch/sweep.py` as a user runs it: what is trained, how often, and what is left when something dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ForkedCommands, LaunchedCommands, free_port, refused
from tiny_sweeps import finished, left, write_sweep
from tiny_world import build_shards

from transrec.runs.summary import SUMMARY_FILE


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(tmp_path_factory.mktemp("sweep") / "shards")


def more_have_finished(folder: Path, count: int) -> bool:
    return len(finished(folder)) > count


def test_a_dry_run_tells_what_is_shared_and_what_it_costs(shards: Path, tmp_path: Path) -> None:
    config, commands = write_sweep(tmp_path, shards), ForkedCommands(tmp_path)
    done = commands.run("sweep", "--config", config, "--dry-run")
    assert done.code == 0, done.stderr
    assert "4 trials share 2 pretrainings" in done.stdout
    assert "device-hours" in done.stdout
    document = json.loads(commands.run("sweep", "--config", config, "--dry-run", "--json").stdout)
    assert len(document["trials"]) == 4
    assert len({trial["pretraining"] for trial in document["trials"]}) == 2
    runs = {name: stage["runs"] for name, stage in document["stages"].items()}
    assert runs["pretraining"] == 2
    assert sum(runs.values()) == document["total"]["runs"]
    assert document["total"]["device_seconds"] > 0
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("only", [[], ["--print-config"]])
def test_a_fit_of_too_few_sizes_is_refused_before_anything_is_spent(
    shards: Path, tmp_path: Path, only: list[str]
) -> None:
    config = write_sweep(tmp_path, shards, fit=["size"])
    done = ForkedCommands(tmp_path).run("sweep", "--config", config, *only)
    assert done.code == 1
    assert "'size' has 2 sizes, but a power law needs 3" in done.stderr
    assert not (tmp_path / "storage").exists()


@pytest.mark.slow
def test_a_sweep_is_done_and_another_takes_what_it_made(shards: Path, tmp_path: Path) -> None:
    commands, config = LaunchedCommands(tmp_path), write_sweep(tmp_path, shards)
    done = commands.start("sweep", "--config", config).wait(900)
    assert done.code == 0, done.stderr
    assert [record.status for record in left(tmp_path)] == ["done"] * 4
    before = finished(tmp_path)
    assert len(before) == 6
    for record in left(tmp_path):
        summary = json.loads((tmp_path / "storage" / "tiny" / record.run / SUMMARY_FILE).read_text())
        assert summary["steps"] == 20
    other = commands.start("sweep", "--config", config, "name=other").wait(900)
    assert other.code == 0, other.stderr
    assert [record.status for record in left(tmp_path, "other")] == ["done"] * 4
    assert finished(tmp_path).keys() == before.keys()
    assert all(path.is_symlink() for path in (tmp_path / "storage" / "other" / "runs").iterdir())


@pytest.mark.slow
def test_a_trial_that_cannot_run_is_told_and_the_others_are_done(shards: Path, tmp_path: Path) -> None:
    grid = {"batch": {"target.train.batch_size": [16, 15]}}  # two micro-batches of 7.5 windows
    config = write_sweep(tmp_path, shards, source=None, grid=grid)
    done = LaunchedCommands(tmp_path).start("sweep", "--config", config, "target.train.accumulation=2").wait(900)
    assert done.code == 1
    fine, failed = left(tmp_path)
    assert (fine.status, failed.status) == ("done", "failed")
    assert failed.error is not None
    assert failed.error.startswith("`train.batch_size` 15 must be divisible")


@pytest.mark.slow
def test_a_driver_killed_twice_repeats_nothing(shards: Path, tmp_path: Path) -> None:
    commands, config = LaunchedCommands(tmp_path), write_sweep(tmp_path, shards)
    ended: dict[str, int] = {}
    for kills in range(2):
        running = commands.start("sweep", "--config", config, *(["--resume"] if kills else []))
        running.wait_until(partial(more_have_finished, tmp_path, len(ended)), timeout=900)
        running.signal(signal.SIGKILL)
        running.wait(60)
        ended = finished(tmp_path)
    done = commands.start("sweep", "--config", config, "--resume").wait(900)
    assert done.code == 0, done.stderr
    after = finished(tmp_path)
    assert len(after) == 6
    assert {name: after[name] for name in ended} == ended, "a finished run was done again"
    assert [record.status for record in left(tmp_path)] == ["done"] * 4


@pytest.mark.slow
def test_a_node_that_dies_costs_an_attempt(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at a time on a node; what ran on the one that dies is done on the other."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # nodes of this process, on this machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        mortal = cluster.add_node(num_cpus=1)
        config = write_sweep(tmp_path, shards, retries=2)
        running = LaunchedCommands(tmp_path).start("sweep", "--config", config, "--address", cluster.address)
        running.wait_until(lambda: len(list(tmp_path.glob("storage/tiny/runs/*/metrics.jsonl"))) == 2, timeout=900)
        cluster.remove_node(mortal, allow_graceful=False)
        done = running.wait(900)
    finally:
        cluster.shutdown()
    assert done.code == 0, done.stderr
    assert [record.status for record in left(tmp_path)] == ["done"] * 4


@pytest.mark.slow
def test_a_cluster_is_reached_from_elsewhere(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a node of its own, on this machine
    config, port = write_sweep(tmp_path, shards), free_port()
    with head_node(port):
        running = LaunchedCommands(tmp_path).start("sweep", "--config", config, "--address", f"ray://127.0.0.1:{port}")
        done = running.wait(900)
    assert done.code == 0, done.stderr
    assert [record.status for record in left(tmp_path)] == ["done"] * 4


@contextmanager
def head_node(client_port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # sockets want short paths
        ports = ["--port", str(free_port()), "--ray-client-server-port", str(client_port)]
        others = ["--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", folder, "--block"]
        ray = Path(sys.executable).with_name("ray")
        node = subprocess.Popen([ray, "start", "--head", *ports, *others], env=os.environ | ENVIRONMENT)
        try:
            wait_for_port(client_port)
            yield
        finally:
            node.terminate()
            node.wait(60)


def wait_for_port(port: int, timeout: float = 120) -> None:
    until = time.monotonic() + timeout
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < until, f"nothing listens on {port}"
        time.sleep(0.5)


def test_a_sweep_elsewhere_is_not_left_in_a_folder_of_the_clusters(shards: Path, tmp_path: Path) -> None:
    config = write_sweep(tmp_path, shards)
    told = refused(
        ForkedCommands(tmp_path).run(
            "sweep", "--config", config, "--address", "ray://127.0.0.1:1", "storage_path=runs/sweeps"
        )
    )
    assert (
        "`storage_path: runs/sweeps` is relative, so results would be written to a folder of the cluster that" in told
    )
