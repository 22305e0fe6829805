"""Reads tab-separated and Parquet files as Arrow batches with line numbers.

Tab-separated: UTF-8 (a byte order mark is fine), header line, LF or CRLF, no quoting; blank lines are
skipped. Every column is a string. Lines are split with numpy over whole blocks because a CSV parser loses
the line numbers once it skips a row, and takes a lone CR for a line's end.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.sources.source import Batch, SourceError

BLOCK_BYTES = 8 * 2**20
_PARQUET_BUFFER = 2**20
_TAB, _NEWLINE, _NUL = b"\t\n\0"


def find_row_file(folder: Path, name: str) -> Path | None:
    """`folder/name.tsv` or `folder/name.parquet`, whichever is there.

    Raises:
        SourceError: both are.
    """
    found = [path for suffix in (".tsv", ".parquet") if (path := folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise SourceError(f"{folder} has both {found[0].name} and {found[1].name}: remove one")
    return found[0] if found else None


def column_names(path: Path) -> list[str]:
    """Names in the header.

    Raises:
        SourceError: no header, not UTF-8, or a name that is empty or appears twice.
    """
    if path.suffix == ".parquet":
        names = list(_open_parquet(path).schema_arrow.names)
    else:
        with path.open("rb") as file:
            names = _parse_header(path, file.readline())
    if len(set(names)) != len(names) or not all(names):
        raise SourceError(f"{path}: column names must be distinct and not empty, found {names}")
    return names


def count_rows(path: Path) -> int:
    """Number of rows; for a tab-separated file the number of newlines, good enough for a progress bar."""
    if path.suffix == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def read_rows(path: Path, reject: RejectSink) -> Iterator[Batch]:
    """Read the file in batches; malformed lines go to `reject`. Parquet columns keep their types."""
    names = column_names(path)
    return _read_parquet(path) if path.suffix == ".parquet" else _read_tsv(path, names, reject)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        # Buffering ahead, it would end up holding the whole file; unbuffered, it holds whole columns of a row group.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not a readable Parquet file: {error}") from None


def _read_parquet(path: Path) -> Iterator[Batch]:
    first_row = 1
    with _open_parquet(path) as file:
        for rows in file.iter_batches():
            try:
                rows.validate(full=True)
            except pa.ArrowInvalid as error:
                raise SourceError(f"{path}, rows from {first_row}: {error}") from None
            yield Batch(path.name, pa.array(np.arange(first_row, first_row + len(rows))), rows)
            first_row += len(rows)


def _parse_header(path: Path, line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}, line 1: the header is not UTF-8: {error.reason}") from None
    if "\0" in text or not text.strip():
        raise SourceError(f"{path}, line 1: expected tab-separated column names in UTF-8")
    return [name.strip() for name in text.split("\t")]


def _read_tsv(path: Path, names: list[str], reject: RejectSink) -> Iterator[Batch]:
    first_line = 2
    for block in _line_blocks(path):
        data = np.frombuffer(block.replace(b"\r\n", b"\n"), np.uint8)
        ends = np.flatnonzero(data == _NEWLINE)
        lengths = np.diff(ends, prepend=-1)  # each line's bytes, its newline included
        keep = lengths > 1
        for index, reason, detail in _malformed_lines(data, ends, lengths, len(names)):
            reject(Reject(path.name, first_line + index, reason, detail))
            keep[index] = False
        if keep.any():
            lines = pa.array(np.flatnonzero(keep) + first_line)
            columns = _split_fields(data[np.repeat(keep, lengths)], len(names))
            yield Batch(path.name, lines, pa.RecordBatch.from_arrays(columns, names))
        first_line += len(ends)


def _line_blocks(path: Path) -> Iterator[bytes]:
    """The file after its header, in blocks of whole lines, each ended by a newline."""
    with path.open("rb") as file:
        file.readline()
        rest = b""
        while chunk := file.read(BLOCK_BYTES):
            chunk = rest + chunk
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield chunk[:cut]
            rest = chunk[cut:]
        if rest:
            yield rest + b"\n"


def _malformed_lines(
    data: np.ndarray, ends: np.ndarray, lengths: np.ndarray, width: int
) -> Iterator[tuple[int, Reason, str]]:
    """Lines of the block that cannot be split, as (line from 0, reason, detail), in order."""
    fields = np.diff(np.cumsum(data == _TAB)[ends], prepend=0) + 1
    wrong = (fields != width) & (lengths > 1)
    nul = np.zeros(len(ends), bool)
    nul[np.searchsorted(ends, np.flatnonzero(data == _NUL))] = True
    suspects = wrong | nul
    if not _is_utf8(data.tobytes()):
        suspects[:] = True  # look at each line of this block
    for index in np.flatnonzero(suspects):
        line = data[ends[index] - lengths[index] + 1 : ends[index]].tobytes()
        if nul[index]:
            yield int(index), Reason.NUL_BYTE, f"NUL at byte {line.index(0) + 1} of the line"
        elif not _is_utf8(line):
            yield int(index), Reason.INVALID_UTF8, _describe_bad_utf8(line)
        elif wrong[index]:
            yield int(index), Reason.WRONG_FIELD_COUNT, f"{fields[index]} fields, the header has {width}"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _describe_bad_utf8(line: bytes) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"{error.reason} 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    raise AssertionError("only called on a line that is not UTF-8")


def _split_fields(data: np.ndarray, width: int) -> list[pa.StringArray]:
    """Columns of well-formed lines: one string array of all fields, then every `width`-th of them."""
    separator = (data == _TAB) | (data == _NEWLINE)
    ends = np.flatnonzero(separator)
    ends -= np.arange(len(ends))  # positions once the separators are taken out
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    content = np.ascontiguousarray(data[~separator])
    fields = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(content))
    return [fields.take(pa.array(np.arange(column, len(ends), width))) for column in range(width)]
