"""Processes that hang or die: nobody waits for ever, nobody is left behind."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import LaunchedCommands, Running
from run_folder import records
from tiny_world import Tiny

from transrec.distributed.watchdog import parent_of

pytestmark = pytest.mark.slow


@pytest.fixture
def running(tiny: Tiny, launched: LaunchedCommands, run_dir: Path) -> Iterator[Running]:
    """Two ranks in the middle of a run without end."""
    running = launched.start("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=1000000", ranks=2)
    running.wait_until(lambda: len(records(run_dir, "step")) >= 3)
    yield running
    for pid in processes_of(run_dir):
        os.kill(pid, signal.SIGKILL)
    running.kill()


def processes_of(run_dir: Path) -> dict[int, str]:
    """Process -> command line, of all that were started for this run."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"run_dir={run_dir}" in command:
            found[int(process.name)] = command
    return found


def find(run_dir: Path, text: str) -> int:
    """The one process with `text` in its command that is no child of another such (a loader's worker)."""
    matching = {pid for pid, command in processes_of(run_dir).items() if text in command}
    (pid,) = (pid for pid in matching if parent_of(pid) not in matching)
    return pid


def wait_for_none(run_dir: Path, seconds: float) -> dict[int, str]:
    """What is left after at most so long."""
    until = time.monotonic() + seconds
    while (left := processes_of(run_dir)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hung_rank_is_named_within_a_minute_and_nothing_is_left(running: Running, run_dir: Path, rank: int) -> None:
    """Rank 0 holds the store that the heartbeats go over."""
    hung = find(run_dir, f"launch/train.py --local_rank={rank} ")
    os.kill(hung, signal.SIGSTOP)
    finished = running.wait(timeout=60)
    assert finished.code != 0
    assert f"rank {rank} (process {hung} on " in finished.stderr
    assert "has not responded" in finished.stderr
    assert not wait_for_none(run_dir, 5)


@pytest.mark.parametrize("killed", ["deepspeed --num_accelerators", "deepspeed.launcher.launch"])
def test_a_killed_launcher_leaves_a_checkpoint_and_no_process(running: Running, run_dir: Path, killed: str) -> None:
    """The command itself, and its process on the node."""
    os.kill(find(run_dir, killed), signal.SIGKILL)
    left = {pid: command for pid, command in wait_for_none(run_dir, 30).items() if killed not in command}
    assert not left
    assert list((run_dir / "checkpoints").glob("step-*/state.json"))


def test_a_killed_rank_takes_the_others_with_it(running: Running, run_dir: Path) -> None:
    os.kill(find(run_dir, "launch/train.py --local_rank=1 "), signal.SIGKILL)
    assert running.wait(timeout=60).code != 0
    assert not wait_for_none(run_dir, 5)
