"""A folder of the cache is filled once, whoever wants it, and a killed process leaves nothing for ever."""

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import ENVIRONMENT
from filelock import FileLock

from transrec.data.content import filled_folder as module
from transrec.data.content.filled_folder import DamagedError, Whole, filled_folder, intact
from transrec.files import StorageError
from transrec.locks import OwnedLock

ONE, OTHER = f"pixels-{'0a' * 12}", f"tokens-{'1b' * 12}"

FILL = """
import os, sys, time
from pathlib import Path
from transrec.data.content import filled_folder as module

target, seconds = Path(sys.argv[1]), float(sys.argv[2])
module.SILENT_SECONDS = 0.3
os.setuid(int(sys.argv[3]))  # only now: another user may not be allowed to import this

def fill(partial):
    (partial / "half").write_text(str(os.getpid()))
    time.sleep(seconds)
    (target.parent / f"log.{os.getpid()}").touch()

module.filled_folder(target, lambda: module.Whole(fill))
"""


def start(target: Path, seconds: float, user: int | None = None) -> "subprocess.Popen[str]":
    """A process, of a user, that takes so long to fill `target`."""
    command = [sys.executable, "-c", FILL, str(target), str(seconds), str(os.geteuid() if user is None else user)]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "not so in time"
        time.sleep(0.02)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(partial: Path) -> None:
    (partial / "file").write_text("whole", encoding="utf-8")


def test_of_two_processes_one_fills_and_the_other_says_what_it_waits_for(tmp_path: Path) -> None:
    target = tmp_path / ONE
    processes = [start(target, 2) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    (filler,) = (path.suffix[1:] for path in tmp_path.glob("log.*"))
    waiter = 1 if int(filler) == processes[0].pid else 0
    assert f"transrec: waiting for process {filler} on " in errors[waiter]
    assert f"to fill {target}\n" in errors[waiter]
    assert errors[1 - waiter] == ""
    assert names(tmp_path) == {ONE, f"log.{filler}"}, "no lock is left, and no half of a folder"


def test_who_waits_takes_over_from_a_killed_process(tmp_path: Path) -> None:
    target = tmp_path / ONE
    killed = start(target, 600)
    wait_until(lambda: list(tmp_path.glob(f"{ONE}.*/half")))
    waiting = start(target, 0)
    assert waiting.stderr is not None
    assert f"waiting for process {killed.pid} on " in waiting.stderr.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert (target / "half").read_text() == str(waiting.pid)
    assert names(tmp_path) == {ONE, f"log.{waiting.pid}"}


def test_what_killed_processes_left_of_other_fills_is_removed(tmp_path: Path) -> None:
    """With a lock or, from older versions, without; never what a living process fills, nor what is none of ours."""
    living = start(tmp_path / OTHER, 600)
    wait_until(lambda: list(tmp_path.glob(f"{OTHER}.*/half")))
    dead = f"states-{'2c' * 12}"
    for name in (f"{ONE}.abcd_123", f"{dead}.0x0x0x0x", dead.replace("2c", "3d"), "shards.abcd1234", f"{dead}.backup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    own = f".{dead}.partial-{os.getuid()}.lock"
    for name in (f".{dead}.lock", f".states-{'4e' * 12}.lock", own):
        (tmp_path / name).touch()
    before = names(tmp_path)
    filled_folder(tmp_path / ONE, lambda: Whole(write))
    gone = {f"{ONE}.abcd_123", f"{dead}.0x0x0x0x", f".{dead}.lock", f".states-{'4e' * 12}.lock", own}
    assert names(tmp_path) == before - gone | {ONE}
    living.kill()
    living.communicate(timeout=30)


def test_a_folder_that_appears_ends_the_wait(tmp_path: Path) -> None:
    """Filled by another user's process that could not touch the lock."""
    with FileLock(tmp_path / f".{ONE}.lock"):
        process = start(tmp_path / ONE, 0)
        assert process.stderr is not None
        assert "waiting for another process to fill" in process.stderr.readline()
        (tmp_path / ONE).mkdir()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not list(tmp_path.glob("log.*"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_lock_that_another_user_left_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """This user's processes share a lock of their own."""
    acquire = OwnedLock.acquire

    def refuse(lock: OwnedLock) -> bool:
        return fail(number) if lock.path.name == f".{ONE}.lock" else acquire(lock)

    monkeypatch.setattr(OwnedLock, "acquire", refuse)
    assert filled_folder(tmp_path / ONE, lambda: Whole(write)).is_dir()
    assert names(tmp_path) == {ONE}


def test_a_disk_without_locks_is_an_error_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: fail(errno.ENOLCK))
    with pytest.raises(
        StorageError, match=r"cannot lock .*\.lock: No locks available\. Choose a folder .* data\.cache"
    ):
        filled_folder(tmp_path / ONE, lambda: Whole(write))


def test_any_user_may_take_the_lock(tmp_path: Path) -> None:
    modes = []
    mask = os.umask(0o077)
    try:
        filled_folder(
            tmp_path / ONE, lambda: Whole(lambda _: modes.append((tmp_path / f".{ONE}.lock").stat().st_mode & 0o777))
        )
    finally:
        os.umask(mask)
    assert modes == [0o666]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("mode", [0o777, 0o1777])  # in the second a user cannot remove what another's is
def test_two_users_share_a_cache(mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / ONE
        Path(folder).chmod(mode)
        killed = start(target, 600, user=1001)
        wait_until(lambda: list(target.parent.glob(f"{ONE}.partial-*")))
        killed.kill()
        killed.communicate(timeout=30)
        other = start(target, 0, user=1002)
        assert other.communicate(timeout=30)[1] == ""
        assert other.returncode == 0
        again = start(target.with_name(OTHER), 0, user=1001)
        assert again.communicate(timeout=30)[1] == ""
        assert names(target.parent) >= {ONE, OTHER}
        assert not list(target.parent.glob(f"{ONE}.*")), "whose it was has removed it"


def fail(number: int) -> Any:
    raise OSError(number, os.strerror(number))


def test_the_name_of_a_partial_is_one_that_is_swept(tmp_path: Path) -> None:
    seen = list[str]()
    filled_folder(tmp_path / ONE, lambda: Whole(lambda partial: seen.append(partial.name)))
    assert module._LEFTOVER.fullmatch(seen[0])[1] == ONE


@pytest.mark.parametrize("error", [OSError("no file"), EOFError("no bytes"), ValueError("no array"), KeyError("width")])
def test_a_damaged_folder_is_named_with_what_to_do(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(DamagedError, match=rf"the cache folder {re.escape(str(tmp_path))}\S* is damaged .*: remove it"),
        intact(tmp_path),
    ):
        raise error


def test_a_folder_may_be_measured_while_its_leader_tidies_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that helped may find notes of the parts that the process in charge removes just then."""
    (tmp_path / "kept").write_bytes(bytes(5000))
    monkeypatch.setattr(Path, "rglob", lambda self, _: iter([self / "kept", self / "removed"]))
    assert module._size_on_disk(tmp_path) >= 5000


def test_old_intermediate_results_are_removed_except_the_own(tmp_path: Path) -> None:
    target, other = tmp_path / ONE, tmp_path / OTHER
    for folder in (module.interim_folder(target), module.interim_folder(other)):
        folder.mkdir()
        os.utime(folder, (0, 0))
    filled_folder(target, lambda: Whole(lambda _: None))
    assert not module.interim_folder(other).exists()
    assert module.interim_folder(target).exists(), "its caller has just read it"
    module.remove_interim(target)
    module.remove_interim(target)
    assert names(tmp_path) == {ONE}
