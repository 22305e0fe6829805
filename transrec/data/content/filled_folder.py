"""Folders of the node's cache that are filled once, by whichever process comes first, and then only read.

Designs considered: no lock (two runs that start together both decode the catalogue), a file that says who fills (it
outlives a killed process, and process numbers come again), and a lock on a file beside the folder. Taken: the lock. It
dies with its process, so whoever waits takes over, and what lies half filled under a lock that is free is nobody's.
The lock's file is removed by its last owner; only where another user left one that may not be touched, a process fills
without a lock, and the first to finish wins.
"""

import errno
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from transrec.files import StorageError, writing

POLL_SECONDS = 0.2
SILENT_SECONDS = 5.0  # before those who wait say so; then each time after twice as long
_RANDOM = "[a-z0-9_]{8}"  # what `mkdtemp` puts behind a name
_LEFTOVER = re.compile(rf"\.?([a-z]+-[0-9a-f]{{24}})\.(?:{_RANDOM}|lock)")  # beside any folder of the cache
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def filled_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`; unless it is there, `fill` writes its files to the folder given to it, which then takes its name.

    Of several processes that want it one fills, and the others wait for it.

    Raises:
        StorageError: the disk is full, read-only or without locks.
    """
    if target.exists():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _owning(target) as locked:
        if not target.exists():
            if locked:
                _sweep(target)
            _fill(target, fill)
    return target


def _fill(target: Path, fill: Callable[[Path], None]) -> None:
    with writing(target):
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        with writing(target):
            fill(partial)
            partial.chmod(0o755)  # shared by all users of the node
            _take_name(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_name(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():  # else another process was first, with the same content
            raise


@contextmanager
def _owning(target: Path) -> Iterator[bool]:
    """Wait until this process may fill `target` or need not; gives whether it holds the lock."""
    lock = _lock(target)
    locked = _acquire(lock, target)
    try:
        yield locked
    finally:
        if locked:
            _give_up(lock)


def _lock(target: Path) -> FileLock:
    """That of the owner of `target`; any user of the node may take it."""
    return FileLock(target.with_name(f".{target.name}.lock"), mode=0o666, fallback_to_soft=False)


def _acquire(lock: FileLock, target: Path) -> bool:
    """Wait for the lock: true once this process holds it, false if `target` is there or the lock cannot be touched.

    Raises:
        StorageError: the disk knows no locks.
    """
    start, silent = time.monotonic(), SILENT_SECONDS
    while not target.exists():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = time.monotonic() - start
            if waited > silent:
                silent = 2 * waited
                print(f"transrec: waiting for {_owner(lock)} to fill {target}", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise StorageError(
                    f"cannot lock {lock.lock_file}: {error.strerror}. Choose a folder on a disk of this machine for "
                    "data.cache; then start the same command again"
                ) from None
            return False  # another user's, or the disk is full or read-only: then the fill fails, and says of what
        else:
            with suppress(OSError):
                Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            return True
    return False


def _owner(lock: FileLock) -> str:
    with suppress(OSError):
        return Path(lock.lock_file).read_text(encoding="utf-8") or "another process"
    return "another process"


def _give_up(lock: FileLock) -> None:
    """Remove the lock's file while it is held: who opened it meanwhile finds it without a name, and opens another."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


def _sweep(target: Path) -> None:
    """Remove what killed processes left, of the fill of `target`, which this process owns, and of others."""
    _remove_partials(target)
    names = [path.name for path in target.parent.iterdir()]
    for name in {found[1] for found in map(_LEFTOVER.fullmatch, names) if found} - {target.name}:
        lock = _lock(target.with_name(name))
        with suppress(OSError):  # a `Timeout`, too: its owner lives
            lock.acquire(timeout=0)
            _remove_partials(target.with_name(name))
            _give_up(lock)


def _remove_partials(target: Path) -> None:
    for path in target.parent.iterdir():
        if re.fullmatch(re.escape(target.name) + rf"\.{_RANDOM}", path.name):
            shutil.rmtree(path, ignore_errors=True)
