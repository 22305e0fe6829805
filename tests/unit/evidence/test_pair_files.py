"""Evidence that several processes count together, and that goes on when they are killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import counted_evidence
import numpy as np
import pytest
from commands import ENVIRONMENT
from counted_evidence import BLOCKS, CONFIG, blocks
from evidence_tables import interim, made

from transrec.data.content.filled_folder import filled_folder
from transrec.files import StorageError

PAIRS, COUNTS = "pairs co_occurrence", "evidence co_occurrence"


def start(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, counted_evidence.__file__, str(folder), str(seconds)]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def log(folder: Path) -> list[tuple[str, str]]:
    """The process and the name of each part that was finished, in order."""
    file = folder / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(pid, name) for pid, name in (line.split(" ", 1) for line in lines)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the table, counted by one process in one part."""
    folder = tmp_path_factory.mktemp("alone") / "counts"
    made(CONFIG, blocks(), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(folder: Path, alone: dict[str, bytes]) -> None:
    assert {path.name for path in folder.iterdir()} == set(alone)
    np.testing.assert_allclose(np.load(folder / "totals.npy"), np.load(folder.parent / "totals-alone.npy"), rtol=1e-12)
    for name in set(alone) - {"totals.npy"}:
        assert (folder / name).read_bytes() == alone[name], name


@pytest.fixture
def folder(tmp_path: Path, alone: dict[str, bytes]) -> Path:
    (tmp_path / "totals-alone.npy").write_bytes(alone["totals.npy"])
    return tmp_path / "counts"


def test_all_processes_count_parts(folder: Path, alone: dict[str, bytes]) -> None:
    processes = [start(folder, 0.3) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    same(folder, alone)
    parts = Counter(name for _, name in log(folder.parent))
    assert set(parts.values()) == {1}, "each part is counted once"
    assert sum(name.startswith(PAIRS) for name in parts) == BLOCKS
    assert sum(name.startswith(COUNTS) for name in parts) > 2
    for step in (PAIRS, COUNTS):
        assert len({pid for pid, name in log(folder.parent) if name.startswith(step)}) == 2


@pytest.mark.parametrize("finished", [3, BLOCKS + 2], ids=["while writing pairs", "while counting"])
def test_killed_processes_lose_only_what_they_had_in_hand(folder: Path, alone: dict[str, bytes], finished: int) -> None:
    process = start(folder, 0.2)
    until = time.monotonic() + 60
    while len(log(folder.parent)) < finished:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    again = start(folder, 0.0)
    assert again.wait(60) == 0, again.communicate()[1]
    same(folder, alone)
    repeated = [name for name, times in Counter(name for _, name in log(folder.parent)).items() if times > 1]
    assert len(repeated) <= 1, "the part that was in hand"


def test_pairs_that_have_vanished_are_not_taken_for_none(folder: Path) -> None:
    """Another process may remove intermediate results: then nothing may be counted from what is left."""
    keep = interim(folder.with_name("interim"))
    work = CONFIG.work(blocks(), keep)
    (folder.with_name("interim") / "000000.cuts").unlink()
    with pytest.raises(StorageError, match="No such file"):
        filled_folder(folder, lambda: work)
    assert not folder.exists()
