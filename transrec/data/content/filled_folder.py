"""Folders in the node's cache that the first process to arrive fills, and that are only read afterwards.

Designs considered: no lock (two runs that start together both decode the catalogue), and a lock on a file beside the
folder (`locks`). Taken: the lock. It is released when its process dies, so a waiting process takes over, and a
half-filled folder with a free lock has no owner. If another user left a lock file that cannot be opened, a process
fills without a lock, and the first to finish wins.
"""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transrec.files import StorageError, writing
from transrec.locks import NO_LOCKS, OwnedLock

POLL_SECONDS = 0.2
SILENT_SECONDS = 5.0  # before a waiting process prints a line; the interval doubles each time
_RANDOM = "[a-z0-9_]{8}"  # suffix that `mkdtemp` appends to a name
_LEFTOVER = re.compile(
    rf"\.?([a-z]+-[0-9a-f]{{24}})\.(?:{_RANDOM}|lock|owner)"
)  # files and folders beside those of the cache


def filled_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Return `target`; if it is missing, `fill` writes its files to a temporary folder, which is then renamed to it.

    If several processes need the folder, one fills it and the others wait.

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
        if not target.exists():  # otherwise another process was faster, with the same content
            raise


@contextmanager
def _owning(target: Path) -> Iterator[bool]:
    """Wait until this process may fill `target` or need not; yields whether it holds the lock."""
    lock = _lock(target)
    locked = _acquire(lock, target)
    try:
        yield locked
    finally:
        if locked:
            lock.release()


def _lock(target: Path) -> OwnedLock:
    """The lock that the owner of `target` holds."""
    return OwnedLock(target.with_name(f".{target.name}.lock"))


def _acquire(lock: OwnedLock, target: Path) -> bool:
    """Wait for the lock: true once this process holds it, false if `target` exists or the lock file is not accessible.

    Raises:
        StorageError: the disk does not support locks.
    """
    start, silent = time.monotonic(), SILENT_SECONDS
    while not target.exists():
        try:
            if lock.acquire():
                return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise StorageError(
                    f"cannot lock {lock.path}: {error.strerror}. Choose a folder on a disk of this machine for "
                    "data.cache; then start the same command again"
                ) from None
            return False  # another user's lock, or a full or read-only disk: the fill then fails with the reason
        waited = time.monotonic() - start
        if waited > silent:
            silent = 2 * waited
            print(f"transrec: waiting for {lock.owner} to fill {target}", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)
    return False


def _sweep(target: Path) -> None:
    """Remove what killed processes left behind while filling `target`, which this process owns, or other folders."""
    _remove_partials(target)
    names = [path.name for path in target.parent.iterdir()]
    for name in {found[1] for found in map(_LEFTOVER.fullmatch, names) if found} - {target.name}:
        lock = _lock(target.with_name(name))
        with suppress(OSError):
            if lock.acquire():  # otherwise its owner is alive
                _remove_partials(target.with_name(name))
                lock.release()


def _remove_partials(target: Path) -> None:
    for path in target.parent.iterdir():
        if re.fullmatch(re.escape(target.name) + rf"\.{_RANDOM}", path.name):
            shutil.rmtree(path, ignore_errors=True)
