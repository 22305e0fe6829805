"""The parts of a folder that several processes fill together.

A process claims a part by its lock, which the system releases if the process dies, and writes the part as pieces of
files. Once these are on disk, a file named after the part and the session lists them with their checksums. The part is
then finished, whatever happens to the process.

A session begins when a process takes charge of the folder. Parts finished in an earlier session are first checked
against their checksums, because the machine may have lost power in between.
"""

import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from transrec.files import read_json, write_text, writing
from transrec.locks import OwnedLock
from transrec.work import PARTS_FOLDER, Advance, PartWriter, Work

_SESSION_FILE = "session"
_READ_AT_ONCE = 2**24  # bytes


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
