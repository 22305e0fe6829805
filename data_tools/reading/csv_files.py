"""Reads comma-separated files as Arrow batches with line numbers.

UTF-8, RFC 4180: a field in double quotes may hold commas, doubled quotes and line ends; a record has the line
number of its first line. Every column is a string. Blocks without a quote, which are most of any large file, are
split with numpy; the others go through the `csv` module. If a quote does not close, or text follows the closing
quote, only the line the record starts on is rejected, and reading continues at the next line.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from data_tools.reading.row_files import require_distinct
from data_tools.reading.text_blocks import first_line, is_utf8, line_blocks, split_block
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.sources.source import Batch, SourceError


def csv_columns(path: Path) -> list[str]:
    """Names in the header.

    Raises:
        SourceError: no header, not UTF-8, or a name that is empty or appears twice.
    """
    names = first_record(path)
    require_distinct(path, names)
    return names


def first_record(path: Path) -> list[str]:
    """Fields of the first line.

    Raises:
        SourceError: the line is empty, not UTF-8, or not one whole record.
    """
    try:
        [fields] = csv.reader([first_line(path)], strict=True)
    except csv.Error as error:
        raise SourceError(f"{path}, line 1: {error}") from None
    return [field.strip() for field in fields]


def read_csv(path: Path, reject: RejectSink) -> Iterator[Batch]:
    """Read a file with a header line in batches, sending malformed records to `reject`."""
    return _read(path.name, line_blocks(path, skip_header=True), csv_columns(path), 2, reject)


def read_headless_csv(path: Path, names: Sequence[str], reject: RejectSink) -> Iterator[Batch]:
    """Read a file without a header line, otherwise as `read_csv` does."""
    return _read(path.name, line_blocks(path), list(names), 1, reject)


def _read(file: str, blocks: Iterator[bytes], names: list[str], start: int, reject: RejectSink) -> Iterator[Batch]:
    rest = b""  # a record that is still open
    for block in blocks:
        block = rest + block
        if b'"' in block:
            records = _Records(file, block, names, start, reject)
            yield from records.batch(last=False)
            rest = records.rest
        else:
            yield from split_block(block, b",", names, file, start, reject)
            rest = b""
        start += block.count(b"\n") - rest.count(b"\n")
    if rest:
        yield from _Records(file, rest, names, start, reject).batch(last=True)


class _Records:
    """The records of a block; after `batch`, `rest` has the lines of a record that the block leaves open.

    An open record cannot grow without bound, because `csv` refuses a field of more than 128 KiB.
    """

    def __init__(self, file: str, block: bytes, names: list[str], start: int, reject: RejectSink) -> None:
        self.rest = b""
        self._file, self._names, self._start, self._reject = file, names, start, reject
        self._lines = block.decode("utf-8", "surrogateescape").split("\n")[:-1]
        self._suspect = not is_utf8(block) or b"\0" in block

    def batch(self, last: bool) -> Iterator[Batch]:
        kept = [(line, fields) for line, fields in self._parse(last) if fields and self._is_sound(line, fields)]
        if kept:
            lines, rows = zip(*kept, strict=True)
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield Batch(self._file, pa.array(lines), pa.RecordBatch.from_arrays(columns, self._names))

    def _parse(self, last: bool) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each record."""
        position = 0
        while position < len(self._lines):
            begin = position
            reader = csv.reader((f"{line}\n" for line in islice(self._lines, begin, None)), strict=True)
            try:
                for fields in reader:
                    yield self._start + position, fields
                    position = begin + reader.line_num
            except csv.Error as error:
                if begin + reader.line_num >= len(self._lines) and not last:
                    self.rest = self._encode(position)
                    return
                self._reject(Reject(self._file, self._start + position, Reason.BAD_QUOTING, str(error)))
                position += 1

    def _encode(self, position: int) -> bytes:
        return "".join(f"{line}\n" for line in self._lines[position:]).encode("utf-8", "surrogateescape")

    def _is_sound(self, line: int, fields: list[str]) -> bool:
        if not self._suspect and len(fields) == len(self._names):
            return True
        text = "".join(fields)
        if "\0" in text:
            reason, detail = Reason.NUL_BYTE, "NUL in the record"
        elif not is_utf8(text.encode("utf-8", "surrogateescape")):
            reason, detail = Reason.INVALID_UTF8, "the record is not UTF-8"
        elif len(fields) != len(self._names):
            reason, detail = Reason.WRONG_FIELD_COUNT, f"{len(fields)} fields instead of {len(self._names)}"
        else:
            return True
        self._reject(Reject(self._file, line, reason, detail))
        return False
