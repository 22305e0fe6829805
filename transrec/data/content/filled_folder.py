"""Folders in the node's cache that the first processes to arrive fill together, and that are only read afterwards.

Designs considered. Without a lock, two runs that start together both decode the catalogue. If one process of a node
fills and the others wait, the other cores and devices are idle for hours, and a killed process loses everything.
Chosen: the work is cut into parts (`parts`), which all processes that need the folder claim one by one, whatever their
run and, where nodes share a file system, whatever their node. One of them holds the lock on the folder: it begins,
checks what was finished before, shows progress and completes the folder. If it dies, its lock is free and another takes
charge.

Finished parts are kept in `NAME.partial-UID`, and the next process of that user continues from there. A partial folder
that nobody continues is removed after a week. If another user left a lock file that cannot be opened, the processes of
this user share a lock of their own, and the first to complete the folder wins.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transrec.data.content.parts import Parts
from transrec.data.progress import progress
from transrec.errors import TransRecError
from transrec.files import StorageError, writing
from transrec.locks import NO_LOCKS, OwnedLock
from transrec.phases import did, phase
from transrec.work import PARTS_FOLDER, Advance, PartWriter, Work

POLL_SECONDS = 0.2
SILENT_SECONDS = 5.0  # before a waiting process prints a line; the interval doubles each time
KEPT_SECONDS = 7 * 24 * 3600.0  # how long a partial folder is kept after its last part
_INTERIM = "interim-"
_LONGEST_FAULT = 300  # characters
_RANDOM = "[a-z0-9_]{8}"  # suffix that `mkdtemp` appends to a name
_LEFTOVER = re.compile(
    rf"\.?([a-z]+-[0-9a-f]{{24}})\.(?:{_RANDOM}|lock|owner|partial-\d+(?:\.lock|\.owner)?)"
)  # files and folders beside those of the cache


class Whole:
    """The work of filling a folder in one process, by a single call of `fill`."""

    unit, sizes, total_bytes = "items", (), 0

    def __init__(self, fill: Callable[[Path], None], name: str = "filling") -> None:
        self.finish, self.name = fill, name

    def begin(self, folder: Path) -> None: ...

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None: ...


def filled_folder(target: Path, prepare: Callable[[], Work]) -> Path:
    """Return `target`; if it is missing, take part in the work that fills it, with all other processes that need it.

    Args:
        prepare: returns the work; called only if the folder is missing.

    Raises:
        StorageError: the disk is full, read-only or without locks, or has less room than the work needs.
    """
    if target.exists():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    work = prepare()
    with phase(work.name):
        _fill(target, work)
        did(**{work.unit: sum(work.sizes)}, bytes=_size_on_disk(target))
    return target


def _fill(target: Path, work: Work) -> None:
    known, waiting = set[str](), _Waiting(target)
    while not target.exists():
        lock = _take(target)
        if lock is not None:
            try:
                _lead(target, work, known)
            finally:
                lock.release()
        elif not _help(target, work, known):
            waiting.pause()


class DamagedError(TransRecError):
    """A folder of the cache no longer holds what was written to it; the message says what to do."""


@contextmanager
def intact(folder: Path) -> Iterator[None]:
    """Context that reads the files of a filled folder.

    Raises:
        DamagedError: a file is missing, or has changed since it was written.
    """
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        fault = " ".join(str(error).split())[:_LONGEST_FAULT]
        raise DamagedError(
            f"the cache folder {folder} is damaged ({fault}): remove it and start the same command again to refill it"
        ) from None


def partial_folder(target: Path) -> Path:
    """The folder with what this user's processes have filled so far."""
    return target.with_name(f"{target.name}.partial-{os.getuid()}")


def interim_folder(target: Path) -> Path:
    """A folder for intermediate results, from which `target` is filled; the caller removes it afterwards.

    If no caller does, it is removed after a week.
    """
    return target.with_name(f"{_INTERIM}{target.name.rpartition('-')[2]}")


def remove_interim(target: Path) -> None:
    """Remove the intermediate results of `target`, in one step, so that a part of them is never taken for all."""
    removed = interim_folder(target).with_suffix(f".{'x' * 8}")
    with suppress(OSError):
        shutil.rmtree(removed, ignore_errors=True)
        interim_folder(target).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _lead(target: Path, work: Work, known: set[str]) -> None:
    """Fill `target`, whose lock this process holds, together with the processes that help."""
    if target.exists():
        return
    _sweep(target)
    partial, parts = _begin(target, work, known)
    try:
        _do_all(parts, work)
        with writing(target):
            work.finish(partial)
            partial.chmod(0o755)  # shared by all users of the node
            _take_name(partial, target)
        shutil.rmtree(target / PARTS_FOLDER, ignore_errors=True)
    finally:
        if partial.exists() and not (parts.finished() or parts.unchecked()):
            shutil.rmtree(partial, ignore_errors=True)


def _begin(target: Path, work: Work, known: set[str]) -> tuple[Path, Parts]:
    """The partial folder and its parts: those of an earlier attempt, or new ones."""
    partial = partial_folder(target)
    parts = Parts(partial, work)
    with writing(target):
        if partial.exists() and parts.begin_session(known):
            _check_room(target, work.total_bytes - _size_on_disk(partial))
            if parts.unchecked():
                _say(f"resuming {partial}: {len(parts.unchecked())} of {len(work.sizes)} parts are finished")
            return partial, parts
        shutil.rmtree(partial, ignore_errors=True)  # it belongs to another version of the work
        _check_room(target, work.total_bytes)
        begun = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            work.begin(begun)
            Parts(begun, work).begin_session(set())
            begun.rename(partial)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        parts.join_session()
    return partial, parts


def _do_all(parts: Parts, work: Work) -> None:
    """Check the parts finished earlier, then fill those that no other process has claimed, and wait for the rest."""
    for name, wanted in (("checking", parts.unchecked()), (work.name, set(range(len(work.sizes))))):
        left = wanted - parts.finished()
        with progress(name, sum(work.sizes[part] for part in left), shown=True, unit=work.unit) as advance:
            while left:
                done = parts.do_one(sorted(left), advance)
                finished = left & parts.finished()
                advance(sum(work.sizes[part] for part in finished - {done}))  # by other processes
                left -= finished
                if done is None and left:
                    time.sleep(POLL_SECONDS)


def _help(target: Path, work: Work, known: set[str]) -> bool:
    """Finish a part of a folder that another process is in charge of; false if no part is left."""
    partial = partial_folder(target)
    parts = Parts(partial, work)
    try:
        session = parts.join_session()
        if session is None:
            return False
        known.add(session)
        left = set(range(len(work.sizes))) - parts.finished()
        first = parts.unchecked() & left  # before the others, as the process in charge does
        return parts.do_one([*sorted(first), *sorted(left - first)], _silent) is not None
    except (FileNotFoundError, StorageError):
        if partial.exists():
            raise
        return False  # completed or given up by the process in charge


def _silent(done: int) -> None:
    """Only the process in charge shows progress."""


def _take(target: Path) -> OwnedLock | None:
    """The lock on `target`, now held by this process, or None if another holds it.

    Raises:
        StorageError: the disk does not support locks, or cannot be written.
    """
    lock = _lock(target)
    try:
        return lock if lock.acquire() else None
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise StorageError(
                f"cannot lock {lock.path}: {error.strerror}. Choose a folder on a disk of this machine for "
                "data.cache; then run the command again"
            ) from None
    own = _own_lock(target)  # the other is another user's
    with writing(target):
        return own if own.acquire() else None


def _lock(target: Path) -> OwnedLock:
    """The lock that the process in charge of `target` holds."""
    return OwnedLock(target.with_name(f".{target.name}.lock"))


def _own_lock(target: Path) -> OwnedLock:
    """The lock that only the processes of this user share."""
    return _lock(partial_folder(target))


def _take_name(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():  # otherwise another user's process was faster, with the same content
            raise
        shutil.rmtree(partial, ignore_errors=True)


class _Waiting:
    """Prints from time to time which process this one is waiting for."""

    def __init__(self, target: Path) -> None:
        self._target, self._start, self._silent = target, time.monotonic(), SILENT_SECONDS

    def pause(self) -> None:
        waited = time.monotonic() - self._start
        if waited > self._silent:
            self._silent = 2 * waited
            _say(f"waiting for {_lock(self._target).owner} to fill {self._target}")
        time.sleep(POLL_SECONDS)


def _check_room(target: Path, needed: int) -> None:
    """
    Raises:
        StorageError: the disk has fewer free bytes.
    """
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        others = [path for path in target.parent.glob("*.partial-*") if path != partial_folder(target)]
        unfinished = f" (unfinished folders there: {', '.join(sorted(path.name for path in others))})" if others else ""
        raise StorageError(
            f"{target.parent} has {free:,} bytes free, but {target.name} needs {needed:,}: make room on that "
            f"disk{unfinished}, or choose another folder with data.cache; then run the command again"
        )


def _size_on_disk(folder: Path) -> int:
    """The bytes of all files, except those that another process removes meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found += 512 * path.stat().st_blocks
    return found


def _sweep(target: Path) -> None:
    """Remove what killed processes left behind of `target`, whose lock this process holds, and of other folders."""
    _remove_partials(target)
    for path in target.parent.glob(f"{_INTERIM}*"):
        with suppress(OSError):
            if path not in (target, interim_folder(target)) and time.time() - path.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    names = [path.name for path in target.parent.iterdir()]
    for name in {found[1] for found in map(_LEFTOVER.fullmatch, names) if found} - {target.name}:
        lock = _lock(target.with_name(name))
        with suppress(OSError):
            if lock.acquire():  # otherwise its owner is alive
                _remove_partials(target.with_name(name))
                _remove_unwanted(target.with_name(name))
                lock.release()
            own = _own_lock(target.with_name(name))
            if own.path.exists() and own.acquire():
                own.release()


def _remove_partials(target: Path) -> None:
    """Remove folders whose creation was cut off."""
    for path in target.parent.iterdir():
        if re.fullmatch(re.escape(target.name) + rf"\.{_RANDOM}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _remove_unwanted(target: Path) -> None:
    """Remove a partial folder that another user's processes overtook, or that nobody has continued for a long time."""
    partial = partial_folder(target)
    with suppress(OSError):
        if target.exists() or time.time() - (partial / PARTS_FOLDER).stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _say(text: str) -> None:
    print(f"transrec: {text}", file=sys.stderr, flush=True)
