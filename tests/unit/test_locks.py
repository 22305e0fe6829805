"""One owner at a time."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from transrec import locks
from transrec.files import StorageError
from transrec.locks import BusyError, OwnedLock, sole_owner

OWN_AND_SLEEP = """
import os, sys, time
from pathlib import Path
from transrec.locks import sole_owner
with sole_owner(Path(sys.argv[1]), "it is being made", "choose another"):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    print("owned", flush=True)
    time.sleep(600)
"""


def start(path: Path, how: str = "alone") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", OWN_AND_SLEEP, str(path), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def test_a_second_owner_is_refused_and_the_first_named(tmp_path: Path) -> None:
    owner = start(tmp_path / ".x.lock")
    began = time.monotonic()
    with pytest.raises(BusyError) as raised, sole_owner(tmp_path / ".x.lock", "x is being made", "choose another"):
        pytest.fail("there were two owners")
    named = f"process {owner.pid} on {socket.gethostname()}"
    assert str(raised.value) == f"x is being made by {named}: wait until it ends, or choose another"
    assert time.monotonic() - began < 10
    owner.kill()
    owner.communicate(timeout=30)


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path, how: str) -> None:
    """Its children, such as loader processes, may hold it for some seconds more."""
    owner = start(tmp_path / ".x.lock", how)
    owner.send_signal(signal.SIGKILL)
    owner.wait(30)
    with sole_owner(tmp_path / ".x.lock", "x is being made", "choose another"):
        assert OwnedLock(tmp_path / ".x.lock").owner == f"process {os.getpid()} on {socket.gethostname()}"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with sole_owner(tmp_path / ".x.lock", "x is being made", "choose another"):
        assert {path.name for path in tmp_path.iterdir()} == {".x.lock", ".x.owner"}
    assert not list(tmp_path.iterdir())


def test_a_disk_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", fail)
    with sole_owner(tmp_path / ".x.lock", "x is being made", "choose another"):
        pass
    assert f"the file system of {tmp_path} does not support locks (No locks available)" in capsys.readouterr().err


def test_a_lock_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write "):  # noqa: SIM117
        with sole_owner(tmp_path / "file" / ".x.lock", "x is being made", "choose another"):
            pytest.fail("it lies inside a file")


def test_an_owner_that_lives_is_not_waited_for_long(tmp_path: Path) -> None:
    with sole_owner(tmp_path / ".x.lock", "x is being made", "choose another"):
        assert not OwnedLock(tmp_path / ".x.lock").has_dead_owner()
    assert locks.PATIENCE_SECONDS < locks.DYING_SECONDS
