"""A set of shards in a local folder or at a URL; its files are read whole, locally and verified.

Designs considered. Streaming members over the network by range requests needs no second reader and no node-local disk,
but training reads blocks at random and would wait for each. Mounting is outside the project. Chosen: whole files,
fetched once per node when first needed, into a cache named by the hash of `index.json`; so two states never mix.
"""

import hashlib
import os
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transrec.data.shards import remote
from transrec.data.shards.schema import INDEX_FILE, NULLABLE, FileEntry, ShardIndex, ShardSetError, read_index
from transrec.data.shards.shard_cache import ShardCache
from transrec.files import replace_atomically


def _default_cache() -> Path:
    """The user's cache folder; a user without a home, as in some containers, has one among the temporary files."""
    try:
        return Path("~/.cache/transrec").expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"transrec-{os.getuid()}"


DEFAULT_CACHE = _default_cache()
DEFAULT_CACHE_BYTES = 100 * 2**30
_LARGEST_INDEX = 2**26  # bytes


class UnreadableError(ShardSetError):
    """A file of the set, or part of one, that is missing or does not match `index.json`."""

    def __init__(self, file: str, reason: str, advice: str) -> None:
        super().__init__(f"{file}: {reason}; {advice}")
        self.reason = reason


class ShardFolder:
    """A set of shards at `place`; `cache` holds at most `cache_bytes` of files from URLs.

    Raises:
        ShardSetError: the set of shards is incomplete.
        UrlError, RemoteError: the URL is invalid, or cannot be read.
    """

    def __init__(self, place: Path | str, cache: Path = DEFAULT_CACHE, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.place = remote.parse_place(place)
        self._index_bytes = self._read_index()
        self.index = ShardIndex.parse(self._index_bytes, self.locate(INDEX_FILE))
        self.index_sha256 = hashlib.sha256(self._index_bytes).hexdigest()
        self._entries = {entry.name: entry for entry in self.index.files}
        self._cache = ShardCache(cache.expanduser() / "shards", cache_bytes)

    def __str__(self) -> str:
        return remote.public(str(self.place))

    def locate(self, name: str) -> str:
        """The file's location as messages show it."""
        return f"{self}/{name}"

    def pin(self) -> None:
        """Follow symbolic links now, so that the files stay those of this set when a link is moved."""
        if isinstance(self.place, Path):
            self.place = self.place.resolve()

    def fetch(self, name: str) -> Path:
        """The whole local file; for a URL it may be evicted later, unlike a file from `open`."""
        self.open(name).close()
        return self._path(name)

    def copy(self) -> Path:
        """A local folder with every file of the set: the folder itself, or for a URL one in the cache."""
        if isinstance(self.place, Path):
            return self.place
        for entry in self.index.files:
            self.fetch(entry.name)
        folder = self._cache.folder / self._key
        with replace_atomically(folder / INDEX_FILE) as partial:
            partial.write_bytes(self._index_bytes)
        return folder

    def open(self, name: str) -> BinaryIO:
        """Open a file of the set.

        Raises:
            UnreadableError: the set has no such file.
            RemoteError: the file cannot be fetched.
        """
        try:
            if isinstance(self.place, Path):
                return self._path(name).open("rb")
            return self._cache.open(self._path(name), self._entry(name).bytes, lambda path: self._download(name, path))
        except OSError as error:
            raise self._unreadable(name, error.strerror or str(error)) from None

    def read(self, name: str, offset: int, size: int, crc32: int) -> bytes:
        """`size` bytes of a file from `offset`, verified.

        Raises:
            UnreadableError: the bytes are missing, or their CRC-32 differs.
            RemoteError: the file cannot be fetched.
        """
        if not 0 <= offset <= offset + size <= self._entry(name).bytes:
            raise self._unreadable(name, f"it ends before the {size} bytes at offset {offset}")
        content = self._read(name, offset, size)
        if zlib.crc32(content) != crc32 and isinstance(self.place, str):
            self._cache.drop(self._path(name))  # it was verified on arrival, so this node's disk damaged it
            content = self._read(name, offset, size)
        if zlib.crc32(content) != crc32:
            raise self._unreadable(name, f"the checksum of the {size} bytes at offset {offset} is wrong")
        return content

    def table(self, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The `columns`, or all, of a Parquet file of the set, verified as a whole; nulls only in `NULLABLE`.

        Raises:
            UnreadableError: the file is missing or damaged, or its columns differ from `schema`.
        """
        with self.open(name) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self._entry(name).sha256:
            raise self._unreadable(name, "its SHA-256 differs from index.json")
        try:
            if pq.read_schema(pa.BufferReader(data)) != schema:
                raise self._unreadable(name, "its columns differ from the schema")
            table = pq.read_table(pa.BufferReader(data), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, str(error)) from None
        if any(table[column].null_count for column in table.column_names if column not in NULLABLE):
            raise self._unreadable(name, "it has rows with missing values")
        return table

    @property
    def _key(self) -> str:
        return self.index_sha256[:24]

    def _read_index(self) -> bytes:
        if isinstance(self.place, Path):
            return read_index(self.place / INDEX_FILE)
        return remote.read(f"{self.place}/{INDEX_FILE}", _LARGEST_INDEX)

    def _entry(self, name: str) -> FileEntry:
        if name not in self._entries:
            raise self._unreadable(INDEX_FILE, f"it does not list {name!r}")
        return self._entries[name]

    def _path(self, name: str) -> Path:
        folder = self.place if isinstance(self.place, Path) else self._cache.folder / self._key
        return folder / self._entry(name).name

    def _download(self, name: str, target: Path) -> None:
        entry = self._entry(name)
        remote.fetch(f"{self.place}/{name}", target, entry.bytes, entry.sha256)

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            with self.open(name) as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise self._unreadable(name, error.strerror or str(error)) from None

    def _unreadable(self, name: str, reason: str) -> UnreadableError:
        return UnreadableError(
            self.locate(name), reason, f"check the set with `python -m data_tools verify {self}`, or copy it again"
        )
