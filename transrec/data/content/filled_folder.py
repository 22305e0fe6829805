"""Folders in the node's cache that the first process to arrive fills, and that are only read afterwards.

Designs considered: no lock (two runs that start together both decode the catalogue), a file that names the filling
process (it outlives a killed process, and process ids are reused), and a lock on a file beside the folder. Taken: the
lock. It is released when its process dies, so a waiting process takes over, and a half-filled folder with a free lock
has no owner. The last owner removes the lock file, and the file beside it that names the owner. If another user left a
lock file that cannot be opened, a process fills without a lock, and the first to finish wins.
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
SILENT_SECONDS = 5.0  # before a waiting process prints a line; the interval doubles each time
_RANDOM = "[a-z0-9_]{8}"  # suffix that `mkdtemp` appends to a name
_LEFTOVER = re.compile(
    rf"\.?([a-z]+-[0-9a-f]{{24}})\.(?:{_RANDOM}|lock|owner)"
)  # files and folders beside those of the cache
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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
            _give_up(lock, target)


def _lock(target: Path) -> FileLock:
    """The lock that the owner of `target` holds; any user of the node may take it."""
    return FileLock(target.with_name(f".{target.name}.lock"), mode=0o666, fallback_to_soft=False)


def _acquire(lock: FileLock, target: Path) -> bool:
    """Wait for the lock: true once this process holds it, false if `target` exists or the lock file is not accessible.

    Raises:
        StorageError: the disk does not support locks.
    """
    start, silent = time.monotonic(), SILENT_SECONDS
    while not target.exists():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = time.monotonic() - start
            if waited > silent:
                silent = 2 * waited
                print(f"transrec: waiting for {_owner(target)} to fill {target}", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise StorageError(
                    f"cannot lock {lock.lock_file}: {error.strerror}. Choose a folder on a disk of this machine for "
                    "data.cache; then start the same command again"
                ) from None
            return False  # another user's lock, or a full or read-only disk: the fill then fails with the reason
        else:
            with suppress(OSError):
                _owner_file(target).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            return True
    return False


def _owner_file(target: Path) -> Path:
    """Names the owner; not the lock file, which the lock empties when another process tries it."""
    return target.with_name(f".{target.name}.owner")


def _owner(target: Path) -> str:
    with suppress(OSError):
        return _owner_file(target).read_text(encoding="utf-8") or "another process"
    return "another process"


def _give_up(lock: FileLock, target: Path) -> None:
    """Remove the lock file while it is held: a process that had opened it finds it unlinked and opens a new one."""
    for path in (_owner_file(target), Path(lock.lock_file)):
        with suppress(OSError):
            path.unlink()
    lock.release()


def _sweep(target: Path) -> None:
    """Remove what killed processes left behind while filling `target`, which this process owns, or other folders."""
    _remove_partials(target)
    names = [path.name for path in target.parent.iterdir()]
    for name in {found[1] for found in map(_LEFTOVER.fullmatch, names) if found} - {target.name}:
        lock = _lock(target.with_name(name))
        with suppress(OSError):  # includes `Timeout`: the owner is alive
            lock.acquire(timeout=0)
            _remove_partials(target.with_name(name))
            _give_up(lock, target.with_name(name))


def _remove_partials(target: Path) -> None:
    for path in target.parent.iterdir():
        if re.fullmatch(re.escape(target.name) + rf"\.{_RANDOM}", path.name):
            shutil.rmtree(path, ignore_errors=True)
