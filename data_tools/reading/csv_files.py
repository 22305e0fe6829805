"""Reads files of comma-separated or otherwise separated fields as Arrow batches with line numbers.

UTF-8, RFC 4180: a field in double quotes may hold separators, doubled quotes and line ends; a record has the line
number of its first line. Every column is a string. If a quote does not close within `LONGEST_QUOTED` characters, or
text follows the closing quote, only the line the record starts on is rejected, and reading continues at the next
line. A quote inside an unquoted field and a lone CR are characters like others.

Blocks without a quote, which are most of any large file, are split with numpy. The others are split line by line, and
lines that Python's `csv` does not accept as whole records are parsed here. `csv` alone would refuse records that numpy
splits (with a lone CR, or fields over 128 KiB), so that the fate of a row would depend on its neighbours, and
restarting it after each bad line takes quadratic time. Here each line is examined a limited number of times: a quoted
field ends at the latest where the next one opens, and a record ends after `_SURPLUS` fields too many.
"""

import csv
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from data_tools.reading.input_files import require_file
from data_tools.reading.row_files import require_distinct
from data_tools.reading.text_blocks import first_line, is_utf8, line_blocks, split_block
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, SourceError

LONGEST_QUOTED = 2**20  # characters; a longer quoted field is assumed to have an unclosed quote
_SURPLUS = 8  # a record with more extra fields than this is assumed to have a misplaced quote
_MOST_COLUMNS = 2**16
_NOT_CLOSED = "a quote is not closed"
_LINE_END = re.compile("\r?\n")


def csv_columns(path: Path) -> list[str]:
    """Names in the header.

    Raises:
        SourceError: no header, not UTF-8, or a name that is empty or appears twice.
    """
    names = first_record(path)
    require_distinct(path, names)
    return names


def require_csv(path: Path, columns: Set[str]) -> Path:
    """The path; raises SourceError if it is not a file, or lacks one of these columns."""
    if missing := columns - set(found := csv_columns(require_file(path))):
        raise SourceError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(found)}")
    return path


def first_record(path: Path) -> list[str]:
    """Fields of the first line.

    Raises:
        SourceError: the line is empty, not UTF-8, or not one whole record.
    """
    return split_line(first_line(path), path)


def split_line(line: str, path: Path, separator: str = ",") -> list[str]:
    """Fields of the first line of `path`, without white space around them.

    Raises:
        SourceError: the line is not one whole record.
    """
    try:
        record = _parse_record(f"{line}\n", 0, _MOST_COLUMNS, separator)
    except _QuotingError as error:
        raise SourceError(f"{path}, line 1: {error}") from None
    if record is None:
        raise SourceError(f"{path}, line 1: {_NOT_CLOSED}")
    return [field.strip() for field in record.fields]


def read_csv(path: Path, reject: RejectSink, label: str | None = None) -> Iterator[Batch]:
    """Read a file with a header line in batches, sending malformed records to `reject`.

    The file is called `label`, by default its name, in batches and rejects.
    """
    return read_csv_blocks(line_blocks(path, skip_header=True), csv_columns(path), label or path.name, 2, reject)


def read_headless_csv(
    path: Path, names: Sequence[str], reject: RejectSink, label: str | None = None
) -> Iterator[Batch]:
    """Read a file without a header line, otherwise as `read_csv` does."""
    return read_csv_blocks(line_blocks(path), list(names), label or path.name, 1, reject)


def read_csv_blocks(
    blocks: Iterator[bytes], names: list[str], label: str, start: int, reject: RejectSink, separator: str = ","
) -> Iterator[Batch]:
    """Read records of the columns `names` from blocks of whole lines, of which the first is line `start`."""
    rest = b""  # the start of a record that has not ended yet
    for block in blocks:
        block = rest + block
        if b'"' in block:
            records = _Records(label, block, names, start, reject, separator)
            yield from records.batch(last=False)
            rest = records.rest
        else:
            yield from split_block(block, separator.encode(), names, label, start, reject)
            rest = b""
        start += block.count(b"\n") - rest.count(b"\n")
    if rest:
        yield from _Records(label, rest, names, start, reject, separator).batch(last=True)


class _QuotingError(Exception):
    """The quotes of a record are wrong."""


class _Record(NamedTuple):
    fields: list[str]
    end: int  # position after the record and its line end


def _parse_record(text: str, begin: int, width: int, separator: str) -> _Record | None:
    """The record of `width` fields that starts at `begin`; None if the text, whole lines, ends inside its quotes.

    Raises:
        _QuotingError: the quotes are wrong.
    """
    fields: list[str] = []
    position = begin
    while len(fields) < width + _SURPLUS:
        if text.startswith('"', position):
            closing = _find_closing_quote(text, position + 1)
            if (len(text) if closing < 0 else closing) - position > LONGEST_QUOTED:
                raise _QuotingError(_NOT_CLOSED)
            if closing < 0:
                return None
            fields.append(text[position + 1 : closing].replace('""', '"'))
            end = closing + 1
        else:
            end = _find_end_of_field(text, position, separator)
            if text[end] == "\n":
                return _Record([*fields, text[position:end].removesuffix("\r")], end + 1)
            fields.append(text[position:end])
        if line_end := _LINE_END.match(text, end):
            return _Record(fields, line_end.end())
        if text[end] != separator:
            raise _QuotingError("text follows a closing quote")
        position = end + 1
    raise _QuotingError(f"over {width + _SURPLUS} fields instead of {width}")


def _split_whole_line(line: str, separator: str) -> list[str] | None:
    """The fields of a line that is a record, or None if it may not be one: `csv` is fast but refuses too much."""
    if '"' not in line:
        return line.split(separator)
    try:
        [fields] = csv.reader([line], delimiter=separator, strict=True)
    except csv.Error:
        return None
    return fields


def _find_closing_quote(text: str, position: int) -> int:
    """The position of the next quote that is not doubled, or -1."""
    while (quote := text.find('"', position)) >= 0 and text.startswith('"', quote + 1):
        position = quote + 2
    return quote


def _find_end_of_field(text: str, position: int, separator: str) -> int:
    line_end = text.index("\n", position)
    found = text.find(separator, position, line_end)
    return line_end if found < 0 else found


class _Records:
    """The records of a block; after `batch`, `rest` has the lines of a record that the block leaves open."""

    def __init__(
        self, file: str, block: bytes, names: list[str], start: int, reject: RejectSink, separator: str
    ) -> None:
        self.rest = b""
        self._separator = separator
        self._file, self._names, self._start, self._reject = file, names, start, reject
        self._text = block.decode("utf-8", "surrogateescape")
        self._suspect = not is_utf8(block) or b"\0" in block

    def batch(self, last: bool) -> Iterator[Batch]:
        kept = [(line, fields) for line, fields in self._parse(last) if self._is_sound(line, fields)]
        if kept:
            lines, rows = zip(*kept, strict=True)
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield Batch(self._file, pa.array(lines), pa.RecordBatch.from_arrays(columns, self._names))

    def _parse(self, last: bool) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each record; blank lines are skipped."""
        text, position, line = self._text, 0, self._start
        while position < len(text):
            line_end = text.index("\n", position) + 1
            plain = text[position:line_end].rstrip("\n").removesuffix("\r")
            fields = _split_whole_line(plain, self._separator)
            if fields is not None:
                if plain:
                    yield line, fields
                line, position = line + 1, line_end
                continue
            try:
                record = _parse_record(text, position, len(self._names), self._separator)
                if record is None and not last:
                    self.rest = text[position:].encode("utf-8", "surrogateescape")
                    return
                if record is None:
                    raise _QuotingError(_NOT_CLOSED)
            except _QuotingError as error:
                self._reject(Reject(self._file, line, Reason.BAD_QUOTING, str(error)))
                line, position = line + 1, line_end
            else:
                yield line, record.fields
                line, position = line + text.count("\n", position, record.end), record.end

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
