"""A lock whose owner lives is waited for; one whose owner was killed is removed."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transrec.distributed import extension_locks
from transrec.distributed.extension_locks import clear_stale_lock


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "cpu_adam").mkdir()
    return tmp_path / "cpu_adam" / "lock"


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_lock_of_a_killed_process_is_removed_and_said(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; os.open({str(lock)!r}, os.O_CREAT | os.O_EXCL); time.sleep(60)"]
    )
    while not lock.exists():
        time.sleep(0.01)
    owner.kill()
    owner.wait()
    age(lock, 2 * extension_locks.SETTLED_SECONDS)
    clear_stale_lock("cpu_adam")
    assert not lock.exists()
    assert f"removed {lock}" in capsys.readouterr().err


def test_a_living_owner_is_waited_for(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    age(lock, 2 * extension_locks.SETTLED_SECONDS)
    released = []

    def release() -> None:
        time.sleep(0.5)
        released.append(lock.exists())
        os.close(descriptor)
        lock.unlink()

    thread = threading.Thread(target=release)
    thread.start()
    clear_stale_lock("cpu_adam")
    thread.join()
    assert released == [True], "the lock of a living owner was taken away"
    assert "waiting for the process that compiles cpu_adam" in capsys.readouterr().err


def test_a_young_lock_may_be_another_machines(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.touch()
    monkeypatch.setattr(extension_locks, "SETTLED_SECONDS", 1.5)
    began = time.monotonic()
    clear_stale_lock("cpu_adam")
    assert not lock.exists()
    assert time.monotonic() - began >= 1.0


def test_locks_of_other_extensions_stay(lock: Path) -> None:
    other = lock.parents[1] / "other" / "lock"
    other.parent.mkdir()
    other.touch()
    age(other, 2 * extension_locks.SETTLED_SECONDS)
    clear_stale_lock("cpu_adam")
    assert other.exists()
