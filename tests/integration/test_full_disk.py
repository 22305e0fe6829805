"""A disk that is full or read-only stops a run with one sentence; with the disk mended, the same command goes on."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import Finished, ForkedCommands, Running, Tiny, losses, records

STEPS = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; a checkpoint of these runs takes less than one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def start(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str) -> Running:
    basics = ["--config", tiny.config, f"run_dir={run_dir}", f"train.steps={STEPS}", "train.checkpoint_every=4"]
    return commands.start("train", *basics, *more)


def fill(disk: Path) -> Path:
    """Leave next to nothing of the disk."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while file.write(b"\0" * 1024):
                pass
        except OSError:
            pass
    return filler


def one_sentence(finished: Finished) -> str:
    assert finished.code == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    (message,) = re.findall(r"^error: (.*)$", finished.stderr, re.MULTILINE)
    return message


def assert_goes_on(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str) -> None:
    saved = sorted(path.parent.name for path in (run_dir / "checkpoints").glob("step-????????/state.json"))
    finished = start(commands, tiny, run_dir, *more).wait()
    assert finished.code == 0, finished.stderr
    assert f"resuming after step {int(saved[-1].removeprefix('step-'))}" in finished.stderr
    assert [record["step"] for record in records(run_dir, "step")] == list(range(1, STEPS + 1))
    assert len(losses(run_dir)) == STEPS


def test_no_room_for_a_checkpoint(tiny: Tiny, commands: ForkedCommands, disk: Path) -> None:
    run_dir = disk / "run"
    running = start(commands, tiny, run_dir)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    os.truncate(disk / "filler", 0) if (disk / "filler").exists() else None
    filler = fill(disk)
    os.truncate(filler, filler.stat().st_size - 100_000)  # the lines of some steps, but no checkpoint
    message = one_sentence(running.wait())
    assert re.search(rf"{run_dir}/checkpoints has 0\.\d MiB left and a checkpoint needs 0\.\d MiB \(12 bytes", message)
    assert "make room on that disk" in message
    filler.unlink()
    assert_goes_on(commands, tiny, run_dir)


@pytest.mark.parametrize("file", ["metrics.jsonl", "tensorboard"])
def test_no_room_for_a_line(tiny: Tiny, commands: ForkedCommands, disk: Path, file: str) -> None:
    run_dir = disk / "run"
    # TensorBoard is flushed at every checkpoint, and there none is due for a while.
    every = "train.log_every=1" if file == "metrics.jsonl" else "train.log_every=4"
    running = start(commands, tiny, run_dir, every)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    filler = fill(disk)
    message = one_sentence(running.wait())
    assert re.match(rf"cannot write {run_dir}/\S+: No space left on device\. Make room on that disk", message)
    filler.unlink()
    assert_goes_on(commands, tiny, run_dir, every)


def test_a_read_only_run_folder(tiny: Tiny, commands: ForkedCommands, disk: Path) -> None:
    run_dir = disk / "run"
    running = start(commands, tiny, run_dir)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    running.kill()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    message = one_sentence(start(commands, tiny, run_dir).wait())
    assert f"cannot write {run_dir}/metrics.jsonl: Read-only file system" in message
    assert "make it writable" in message
    new = one_sentence(start(commands, tiny, disk / "new").wait())
    assert f"cannot write {disk}/new: Read-only file system" in new
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert_goes_on(commands, tiny, run_dir)
