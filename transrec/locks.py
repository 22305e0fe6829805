"""Locks for files and folders that one process may own at a time.

A lock is released when its process dies; a file beside it names the owner.

Designs considered: a file that names the owner (it outlives a killed process, and process ids are reused), a lease that
the owner renews (a suspended owner loses it without noticing), and a lock of the operating system. Chosen: the last,
which also works between nodes that share a file system. The owner is not named in the lock file itself, because some
versions of `filelock` empty that file when another process tries to take the lock.
"""

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from transrec.errors import TransRecError
from transrec.files import writing

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # errors of a file system without locks
PATIENCE_SECONDS, DYING_SECONDS = 1.0, 30.0  # waiting times for a living owner, and for the children of a dead one
POLL_SECONDS = 0.1
LOCK_FILE = ".lock"

_OWNER = re.compile(r"process (\d+) on (.+)")


class BusyError(TransRecError, RuntimeError):
    """Another process holds the lock; the message names that process and the remedy."""


class OwnedLock:
    """The lock file `path`, such as `.x.lock`, and beside it `.x.owner` with the name of the process that holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, mode=0o666, fallback_to_soft=False)  # any user of the node may take it
        self._owner = path.with_suffix(".owner")

    def acquire(self) -> bool:
        """Take the lock; false if another process holds it.

        Raises:
            OSError: the lock file cannot be opened, or its file system does not support locks.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        with suppress(OSError):
            self._owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        return True

    def release(self) -> None:
        """Remove both files while holding the lock; a process that has the lock file open notices and retries."""
        for path in (self._owner, self.path):
            with suppress(OSError):
                path.unlink()
        self._lock.release()

    @property
    def owner(self) -> str:
        """The process that holds the lock: `process 4711 on node3`."""
        with suppress(OSError, UnicodeDecodeError):
            return self._owner.read_text(encoding="utf-8") or "another process"
        return "another process"

    def has_dead_owner(self) -> bool:
        """Whether the owner was a process of this machine that has ended, so that only its children hold the lock."""
        named = _OWNER.fullmatch(self.owner)
        return named is not None and named[2] == socket.gethostname() and not Path(f"/proc/{named[1]}").exists()


@contextmanager
def sole_owner(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path`; `what` describes the work of its owner, as in "runs/x is being trained".

    On a file system without locks, nothing is locked, and a warning is printed to standard error.

    Raises:
        BusyError: another process holds it; the message ends with `remedy`.
        StorageError: the lock file cannot be written.
    """
    lock = OwnedLock(path)
    if _take(lock, what, remedy):
        try:
            yield
        finally:
            lock.release()
    else:
        yield


def sole_writer(folder: Path, what: str, remedy: str) -> AbstractContextManager[None]:
    """Hold the lock of a folder that exists or will be made; the arguments and errors are those of `sole_owner`.

    The lock file is beside a new folder, but inside an existing one, because containers may share a volume without
    sharing the folder that it is mounted in.
    """
    if folder.is_dir():
        return sole_owner(folder / LOCK_FILE, what, remedy)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return sole_owner(folder.with_name(f".{folder.name}{LOCK_FILE}"), what, remedy)


def _take(lock: OwnedLock, what: str, remedy: str) -> bool:
    """Wait a moment for the lock; false if the file system does not support locks."""
    start = time.monotonic()
    with writing(lock.path):
        try:
            while not lock.acquire():
                if time.monotonic() - start > (DYING_SECONDS if lock.has_dead_owner() else PATIENCE_SECONDS):
                    raise BusyError(f"{what} by {lock.owner}: wait until it ends, or {remedy}")
                time.sleep(POLL_SECONDS)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            missing = (
                f"the file system of {lock.path.parent} does not support locks ({error.strerror}): do not start a "
                "second process on this folder; it would not be refused"
            )
            print(f"transrec: {missing}", file=sys.stderr, flush=True)
            return False
    return True
