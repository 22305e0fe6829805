"""The parts of a folder that several processes fill together.

A process claims a part by its lock, which the system releases if the process dies. The part writes pieces of files.
When they are on disk, a file named by the part and the session lists them with their checksums: then the part is
finished, whatever happens to the process.

A session begins when a process takes charge of the folder. Parts that are finished in an earlier one are read again and
compared with their checksums before they count: between two sessions, a machine may have lost its power.
"""

import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Protocol

from transrec.data.progress import Advance
from transrec.files import read_json, write_text, writing
from transrec.locks import OwnedLock

PARTS_FOLDER = ".parts"  # in the folder that is filled
_SESSION_FILE = "session"
_READ_AT_ONCE = 2**24  # bytes

Write = Callable[[bytes | memoryview], None]


class Work(Protocol):
    """The work of filling a folder, divided into parts that do not depend on each other."""

    @property
    def name(self) -> str:
        """Name of the work, for its progress: "decoding"."""
        ...

    @property
    def unit(self) -> str:
        """What `sizes` counts: "items"."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """Number of items of each part."""
        ...

    @property
    def total_bytes(self) -> int:
        """Approximate size of the folder on disk."""
        ...

    def begin(self, folder: Path) -> None:
        """Make the files that several parts write to."""
        ...

    def fill(self, part: int, out: "PartWriter", advance: Advance) -> None:
        """Write a part; call `advance` with the number of items just done."""
        ...

    def finish(self, folder: Path) -> None:
        """Complete the folder once all parts are finished; an earlier call may have been cut off."""
        ...


class PartWriter:
    """Writes the pieces of one part and notes their checksums."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pieces: list[tuple[str, int, int, int]] = []  # file, offset, size, CRC-32

    @contextmanager
    def at(self, name: str, offset: int) -> Iterator[Write]:
        """A function that writes to an existing file from `offset` on."""
        with (self._folder / name).open("r+b", buffering=0) as file:
            file.seek(offset)
            yield from self._write(name, offset, file)

    @contextmanager
    def file(self, name: str) -> Iterator[Write]:
        """A function that writes a file of the part's own."""
        with (self._folder / name).open("wb", buffering=0) as file:
            yield from self._write(name, 0, file)

    def _write(self, name: str, offset: int, file: FileIO) -> Iterator[Write]:
        size = crc32 = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal size, crc32
            view = memoryview(data).cast("B")
            crc32, size = zlib.crc32(view, crc32), size + len(view)
            while view:
                view = view[file.write(view) :]

        yield write
        os.fsync(file.fileno())
        self.pieces.append((name, offset, size, crc32))


class Parts:
    """The parts of `work` in `folder`, of which this process claims some."""

    def __init__(self, folder: Path, work: Work) -> None:
        self._folder, self._work = folder, work
        self._kept = folder / PARTS_FOLDER
        self._session = ""

    def begin_session(self, known: set[str]) -> bool:
        """Take charge of the folder; false if its parts belong to other work.

        Args:
            known: sessions in which this process took part; such a session is continued.
        """
        before, plan = self._read_session()
        if plan not in ("", self._plan):
            return False
        self._session = before if before in known else secrets.token_hex(4)
        self._kept.mkdir(exist_ok=True)
        write_text(self._kept / _SESSION_FILE, f"{self._session} {self._plan}")
        return True

    def join_session(self) -> str | None:
        """The session that another process has begun, in which this one takes part; None if there is none."""
        session, plan = self._read_session()
        self._session = session
        return session if plan == self._plan else None

    def finished(self) -> set[int]:
        """The parts that are finished in this session."""
        return {part for part, session in self._noted() if session == self._session}

    def unchecked(self) -> set[int]:
        """The parts that were finished in an earlier session."""
        return {part for part, session in self._noted() if session != self._session} - self.finished()

    def do_one(self, wanted: Iterable[int], advance: Advance) -> int | None:
        """Finish one of the `wanted` parts that no other process has claimed, and return it; None if there is none.

        A part that was finished in an earlier session is checked, and filled again if its files have changed.
        """
        for part in wanted:
            lock = OwnedLock(self._kept / f".{part:06d}.lock")
            with writing(self._folder):
                claimed = lock.acquire()
            if claimed:
                try:
                    if part not in self.finished():
                        self._do(part, advance)
                        return part
                finally:
                    lock.release()
        return None

    def _do(self, part: int, advance: Advance) -> None:
        for path in self._kept.glob(f"{part:06d}.*.json"):
            if self._holds(path):
                path.rename(self._note(part))
                advance(self._work.sizes[part])
                return
            path.unlink()
        out = PartWriter(self._folder)
        with writing(self._folder):
            self._work.fill(part, out, advance)
        write_text(self._note(part), json.dumps(out.pieces))

    def _holds(self, note: Path) -> bool:
        """Whether the pieces of a finished part are unchanged."""
        with suppress(OSError, ValueError, TypeError):
            pieces = read_json(note)
            return bool(pieces) and all(
                _crc32(self._folder / name, offset, size) == crc32 for name, offset, size, crc32 in pieces
            )
        return False

    def _note(self, part: int) -> Path:
        return self._kept / f"{part:06d}.{self._session}.json"

    def _noted(self) -> Iterator[tuple[int, str]]:
        """The number and the session of each part that is finished."""
        for name in os.listdir(self._kept):
            number, _, rest = name.partition(".")
            if number.isdecimal() and rest.endswith(".json"):
                yield int(number), rest.removesuffix(".json")

    @property
    def _plan(self) -> str:
        return sha256(json.dumps(list(self._work.sizes)).encode()).hexdigest()[:16]

    def _read_session(self) -> tuple[str, str]:
        try:
            session, plan = (self._kept / _SESSION_FILE).read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return "", ""
        return session, plan


def part_sizes(items: int, of_a_part: int) -> list[int]:
    """The sizes of parts of `of_a_part` items, of which the last may be smaller."""
    return [min(of_a_part, items - start) for start in range(0, items, of_a_part)]


def _crc32(path: Path, offset: int, size: int) -> int | None:
    """The checksum of `size` bytes of a file, or None if it has fewer."""
    found = 0
    with path.open("rb") as file:
        file.seek(offset)
        while size:
            data = file.read(min(size, _READ_AT_ONCE))
            if not data:
                return None
            found, size = zlib.crc32(data, found), size - len(data)
    return found
