"""Writes deterministic tars of samples, split at sample boundaries, and describes files for `index.json`.

The same samples give the same bytes: USTAR headers with time, ids and names zeroed, members in the order written.
"""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from transrec.data.shards.schema import FileEntry


class Placed(NamedTuple):
    """The place of a member's content: `size` bytes from `offset` in the file `shard`; `crc32` is of the content."""

    shard: str
    offset: int
    size: int
    crc32: int


class ShardWriter:
    """Writes `{kind}-{number:06d}.tar` files into a folder.

    A shard is closed before the sample that would take it past `shard_bytes` (not counting the end marker); a single
    larger sample gets a shard of its own. Use as a context manager; `entries` is complete when it exits.
    """

    def __init__(self, folder: Path, kind: Literal["items", "users"], shard_bytes: int) -> None:
        self.entries: list[FileEntry] = []
        self._folder, self._kind, self._shard_bytes = folder, kind, shard_bytes
        self._shard: _OpenShard | None = None

    def write(self, members: Sequence[tuple[str, bytes]], samples: int = 1) -> list[Placed]:
        """Append (file name, content) pairs that belong together, and return their places."""
        size = sum(tarfile.BLOCKSIZE + _padded(len(content)) for _, content in members)
        if self._shard and self._shard.position + size > self._shard_bytes:
            self._close_shard()
        if self._shard is None:
            self._shard = _OpenShard(self._folder / f"{self._kind}-{len(self.entries):06d}.tar")
        self._shard.samples += samples
        return [self._shard.add(name, content) for name, content in members]

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close_shard()
        elif self._shard is not None:
            self._shard.abandon()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self.entries.append(describe_file(self._shard.path, self._kind, self._shard.samples))
            self._shard = None


class _OpenShard:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self.position = 0
        self._file = path.open("wb")

    def add(self, name: str, content: bytes) -> Placed:
        member = tarfile.TarInfo(name)  # time, owner and group default to zero
        member.mode, member.size = 0o444, len(content)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        placed = Placed(self.path.name, self.position, len(content), zlib.crc32(content))
        self._write(content)
        self._pad_to(tarfile.BLOCKSIZE)
        return placed

    def close(self) -> None:
        self._write(tarfile.NUL * 2 * tarfile.BLOCKSIZE)  # the end of the archive
        self._pad_to(tarfile.RECORDSIZE)
        self._file.close()

    def abandon(self) -> None:
        with suppress(OSError):  # closing retries a failed write
            self._file.close()

    def _write(self, data: bytes) -> None:
        self.position += self._file.write(data)

    def _pad_to(self, multiple: int) -> None:
        self._write(tarfile.NUL * (-self.position % multiple))


def describe_file(
    path: Path, kind: Literal["items", "users", "catalogue", "blocks", "rejects"], samples: int
) -> FileEntry:
    """Flush the file to disk and return its entry, with size and hash."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    size = path.stat().st_size
    return FileEntry(name=path.name, kind=kind, samples=samples, bytes=size, sha256=hash_file(path))


def hash_file(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
