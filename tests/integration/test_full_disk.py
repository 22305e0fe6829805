"""A disk that is full or read-only stops a run with one sentence; with the disk mended, the same command goes on."""

import os
import re
import shutil
from pathlib import Path

from commands import Finished, ForkedCommands, Running
from run_folder import losses, records
from small_disk import SmallDisk
from tiny_world import Tiny

STEPS = 40


def start(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str) -> Running:
    basics = ["--config", tiny.config, f"run_dir={run_dir}", f"train.steps={STEPS}", "train.checkpoint_every=4"]
    return commands.start("train", *basics, *more)


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


def test_no_room_for_a_checkpoint(tiny: Tiny, commands: ForkedCommands, small_disk: SmallDisk) -> None:
    run_dir = small_disk.path / "run"
    running = start(commands, tiny, run_dir)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    filler = small_disk.fill()
    os.truncate(filler, filler.stat().st_size - 100_000)  # the lines of some steps, but no checkpoint
    message = one_sentence(running.wait())
    assert re.search(rf"{run_dir}/checkpoints has 0\.\d MiB left, but a checkpoint needs 0\.\d MiB \(12 bytes", message)
    assert "make room on that disk" in message
    filler.unlink()
    assert_goes_on(commands, tiny, run_dir)


def test_no_room_for_a_line(tiny: Tiny, commands: ForkedCommands, small_disk: SmallDisk) -> None:
    run_dir, every = small_disk.path / "run", "train.checkpoint_every=20"
    running = start(commands, tiny, run_dir, every)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000020" / "state.json").exists())
    filler = small_disk.fill()
    message = one_sentence(running.wait())
    assert re.match(rf"cannot write {run_dir}/\S+: No space left on device\. Make room on that disk", message)
    filler.unlink()
    assert_goes_on(commands, tiny, run_dir, every)


def test_a_run_folder_that_is_gone(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    """A loader process ignores signals: whoever leaves without closing it waits for it for ever."""
    running = start(commands, tiny, run_dir, "train.steps=5000", "data.workers=1")
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    shutil.rmtree(run_dir)
    assert f"cannot write {run_dir}" in one_sentence(running.wait(timeout=60))


def test_a_read_only_run_folder(tiny: Tiny, commands: ForkedCommands, small_disk: SmallDisk) -> None:
    run_dir = small_disk.path / "run"
    running = start(commands, tiny, run_dir)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000004" / "state.json").exists())
    running.kill()
    assert small_disk.mount("-o", "remount,ro")
    message = one_sentence(start(commands, tiny, run_dir).wait())
    assert f"cannot write {run_dir}/.lock: Read-only file system" in message
    assert "Make that disk writable" in message
    new = one_sentence(start(commands, tiny, small_disk.path / "new").wait())
    assert f"cannot write {small_disk.path}/new: Read-only file system" in new
    assert small_disk.mount("-o", "remount,rw")
    assert_goes_on(commands, tiny, run_dir)
