"""The work of filling a folder, in parts that several processes claim one by one (`data.content.filled_folder`)."""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

PARTS_FOLDER = ".parts"  # in the folder that is filled, until it is finished

Advance = Callable[[int], None]  # receives the number of items just done
Write = Callable[[bytes | memoryview], None]


class Work(Protocol):
    """The work of filling a folder, divided into parts that do not depend on each other."""

    @property
    def name(self) -> str:
        """Name of the work, for its progress: "decoding"."""
        ...

    @property
    def unit(self) -> str:
        """The unit of `sizes`, such as "items"."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """The size of each part, in units."""
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
        """A function that writes a file that belongs to this part alone."""
        with (self._folder / name).open("wb", buffering=0) as file:
            yield from self._write(name, 0, file)

    def _write(self, name: str, offset: int, file: FileIO) -> Iterator[Write]:
        size = crc32 = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal size, crc32
            view = memoryview(data)
            if not view.nbytes:  # an empty array of several axes cannot be cast
                return
            view = view.cast("B")
            crc32, size = zlib.crc32(view, crc32), size + len(view)
            while view:
                view = view[file.write(view) :]

        yield write
        os.fsync(file.fileno())
        self.pieces.append((name, offset, size, crc32))


def part_sizes(items: int, of_a_part: int) -> list[int]:
    """The sizes of parts of `of_a_part` items, of which the last may be smaller."""
    return [min(of_a_part, items - start) for start in range(0, items, of_a_part)]
