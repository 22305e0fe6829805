"""Reads text files in blocks of whole lines, and splits blocks of unquoted lines into columns.

Lines are split with numpy over whole blocks, because a CSV parser loses the line numbers once it skips a row and takes
a lone CR for the end of a line. A file whose name ends in `.gz` is decompressed while it is read.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, SourceError

BLOCK_BYTES = 8 * 2**20
_NEWLINE, _NUL = b"\n\0"


def line_blocks(path: Path, skip_header: bool = False) -> Iterator[bytes]:
    """Yield the file in blocks of whole lines, each line ended by a newline, without a byte order mark.

    Raises:
        SourceError: a `.gz` file is cut off, damaged or not gzip.
    """
    with _open(path) as file:
        rest = _guard(path, file.readline).removeprefix(b"\xef\xbb\xbf")
        if skip_header:
            rest = b""
        while chunk := _guard(path, file.read, BLOCK_BYTES):
            chunk = rest + chunk
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield chunk[:cut]
            rest = chunk[cut:]
        if rest:
            yield rest if rest.endswith(b"\n") else rest + b"\n"


def first_line(path: Path) -> str:
    """The first line, without its end.

    Raises:
        SourceError: the line is empty, not UTF-8, or has a NUL byte, or a `.gz` file is damaged.
    """
    with _open(path) as file:
        line = _guard(path, file.readline)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}, line 1: not UTF-8: {error.reason}") from None
    if not text.strip():
        raise SourceError(f"{path}, line 1, is empty: expected text in UTF-8")
    if "\0" in text:
        raise SourceError(f"{path}, line 1: expected text, found a NUL byte; the line begins {text[:40]!r}")
    return text


def count_lines(paths: Iterable[Path]) -> int | None:
    """Number of newlines, good enough for a progress bar; None if a file would have to be decompressed."""
    paths = list(paths)
    return None if any(path.suffix == ".gz" for path in paths) else sum(map(_count_newlines, paths))


def split_block(
    block: bytes, separator: bytes, names: list[str], file: str, start: int, reject: RejectSink
) -> Iterator[Batch]:
    """Yield one batch of string columns, or none, from unquoted lines; the first is line `start` of `file`.

    Blank lines are skipped; lines that cannot be split into as many fields as there are `names` are rejected.
    """
    data = np.frombuffer(block.replace(b"\r\n", b"\n"), np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    lengths = np.diff(ends, prepend=-1)  # bytes of each line, including its newline
    keep = lengths > 1
    is_separator = data == separator[0]
    for index, reason, detail in _malformed_lines(data, is_separator, ends, lengths, len(names)):
        reject(Reject(file, start + index, reason, detail))
        keep[index] = False
    if keep.any():
        lines, kept = pa.array(np.flatnonzero(keep) + start), np.repeat(keep, lengths)
        columns = _split_fields(data[kept], is_separator[kept], len(names))
        yield Batch(file, lines, pa.RecordBatch.from_arrays(columns, names))


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def describe_bad_utf8(line: bytes) -> str:
    """The detail of a reject: the first fault of a line that is not UTF-8, and its position."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"{error.reason} 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    raise AssertionError("only called on a line that is not UTF-8")


def _count_newlines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _guard(path: Path, read: Callable[..., bytes], *arguments: int) -> bytes:
    try:
        return read(*arguments)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path} is not a complete gzip file ({error}): download it again") from None


def _malformed_lines(
    data: np.ndarray, is_separator: np.ndarray, ends: np.ndarray, lengths: np.ndarray, width: int
) -> Iterator[tuple[int, Reason, str]]:
    """Yield the lines of the block that cannot be split, as (line from 0, reason, detail), in order."""
    fields = np.diff(np.cumsum(is_separator)[ends], prepend=0) + 1
    wrong = (fields != width) & (lengths > 1)
    nul = np.zeros(len(ends), bool)
    nul[np.searchsorted(ends, np.flatnonzero(data == _NUL))] = True
    suspects = wrong | nul
    if not is_utf8(data.tobytes()):
        suspects[:] = True  # check each line of this block
    for index in np.flatnonzero(suspects):
        line = data[ends[index] - lengths[index] + 1 : ends[index]].tobytes()
        if nul[index]:
            yield int(index), Reason.NUL_BYTE, f"NUL at byte {line.index(0) + 1} of the line"
        elif not is_utf8(line):
            yield int(index), Reason.INVALID_UTF8, describe_bad_utf8(line)
        elif wrong[index]:
            yield int(index), Reason.WRONG_FIELD_COUNT, f"{fields[index]} fields instead of {width}"


def _split_fields(data: np.ndarray, is_separator: np.ndarray, width: int) -> list[pa.StringArray]:
    """Columns of well-formed lines: one string array of all fields, then every `width`-th of them."""
    separator = is_separator | (data == _NEWLINE)
    ends = np.flatnonzero(separator)
    ends -= np.arange(len(ends))  # positions after the separators are removed
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    content = np.ascontiguousarray(data[~separator])
    fields = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(content))
    return [fields.take(pa.array(np.arange(column, len(ends), width))) for column in range(width)]
