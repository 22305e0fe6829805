"""Whole files of remote sets on this node's disk, shared by its processes and bounded in size.

A file gets its name once it is complete, so readers need no lock: a file that opens is complete, and a file removed
while open stays readable. Only downloads are locked, one lock per file, so that one process fetches and the others
wait. A lock is released when its process dies.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from transrec.files import replace_atomically

_PARTIAL = ".partial"


class ShardCache:
    """At most `limit` bytes in `folder/<set>/<name>`; the least recently opened files are removed first.

    A single file larger than the limit is kept until the next one arrives.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def open(self, path: Path, size: int, download: Callable[[Path], None]) -> BinaryIO:
        """Open `path`, a file of `size` bytes below `folder`; `download(target)` fetches it if it is missing."""
        while True:  # another process may remove the file that was just fetched
            with suppress(FileNotFoundError):
                file = path.open("rb")
                os.utime(file.fileno())
                return file
            self._fetch(path, size, download)

    def drop(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def _fetch(self, path: Path, size: int, download: Callable[[Path], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(path):
            if path.exists():  # another process was faster
                return
            with replace_atomically(path) as partial:
                self._reserve(partial, size)
                download(partial)

    def _reserve(self, partial: Path, size: int) -> None:
        """Remove files to make room, and reserve the full size of `partial`."""
        with FileLock(self._locks / "all"):
            partial.unlink(missing_ok=True)  # left by a killed process
            excess = sum(bytes_ for _, bytes_, _ in self._files()) + size - self.limit
            for _, bytes_, path in sorted(self._files()):
                if excess <= 0:
                    break
                if self._remove(path):
                    excess -= bytes_
            partial.touch()
            os.truncate(partial, size)

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path) of every file."""
        for path in self.folder.glob("[!.]*/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path

    def _remove(self, path: Path) -> bool:
        """Remove a whole or partial file unless it is being downloaded; returns whether it was removed."""
        whole = path.with_name(path.name.removeprefix(".").removesuffix(_PARTIAL))
        try:
            with self._lock(whole, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    @property
    def _locks(self) -> Path:
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _lock(self, path: Path, timeout: float = -1) -> FileLock:
        return FileLock(self._locks / f"{path.parent.name}-{path.name}", timeout)
