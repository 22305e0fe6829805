"""Builds that are cut off: what they leave is never taken for shards, and the same command works afterwards."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.verify import verify

REPOSITORY = Path(__file__).parents[2]
SYNTHETIC = ("--source", "synthetic", "--users", "3000", "--items", "500", "--interactions", "300000")


def command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "data_tools", "build", *SYNTHETIC, "--output", str(output), *arguments]


def build(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(output, *arguments), cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 64 MB, of which a file called ballast takes all but 4, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed")
    (disk / "ballast").write_bytes(bytes(60 * 2**20))
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_disk_full(small_disk: Path, workers: str) -> None:
    result = build(small_disk / "out", "--workers", workers)
    assert result.returncode == 1
    assert result.stderr == f"error: the disk of {small_disk / 'out'} is full: free some space and build again\n"
    (small_disk / "ballast").unlink()
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) == 0
    assert build(small_disk / "out", "--workers", workers).returncode == 0
    assert verify(small_disk / "out") == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = build(tmp_path / "file" / "out")
    assert result.returncode == 1
    assert result.stderr == (
        f"error: cannot create the folder {tmp_path / 'file'} (File exists): choose an --output where you can write\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    result = build(tmp_path / "mine" / "out")
    assert (result.returncode, "Permission denied" in result.stderr) == (1, True)


def test_missing_parents_are_made(tmp_path: Path) -> None:
    assert build(tmp_path / "a" / "b", "--interactions", "3000").returncode == 0


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    start = time.monotonic()
    assert build(tmp_path / "whole", "--workers", "2").returncode == 0
    seconds, moments = time.monotonic() - start, random.Random(0)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    unfinished = 0
    for _ in range(10):
        process = subprocess.Popen(command(out, "--workers", "2"), cwd=REPOSITORY)
        time.sleep(moments.uniform(0.1, 1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "index.json").exists() or verify(out) == []
        assert not (partial / "index.json").exists() or verify(partial) == []
        unfinished += not out.exists()
        if out.exists():
            out.rename(tmp_path / f"finished-{unfinished}-{time.monotonic_ns()}")
    assert unfinished > 3
    assert build(out, "--workers", "2").returncode == 0
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")
    assert not partial.exists()


@pytest.mark.slow
def test_two_builds_of_one_output_at_twenty_offsets(tmp_path: Path) -> None:
    """One of them builds it, the other is refused, and the set is whole."""
    rng = random.Random(0)
    for number in range(20):
        output = tmp_path / f"out-{number}"
        first = subprocess.Popen(command(output), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        time.sleep(rng.uniform(0, 6))
        second = build(output)
        told = [first.communicate(timeout=300)[1], second.stderr]
        assert sorted([first.returncode, second.returncode]) == [0, 1]
        loser = told[0] if first.returncode else told[1]
        assert re.search(r"is being built by process \d+ on|already holds a set of shards", loser), loser
        assert "Traceback" not in "".join(told)
        assert verify(output) == []
