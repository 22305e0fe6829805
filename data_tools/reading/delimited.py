"""Text files of separated fields in any encoding that has the line ends and separators of ASCII.

A separator of one character follows RFC 4180 (see `csv_files`); fields between longer ones, such as `::`, are not
quoted. A name that ends in `.gz` is decompressed.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.reading.csv_files import read_csv_blocks, split_line
from data_tools.reading.row_files import require_distinct
from data_tools.reading.text_blocks import count_lines, line_blocks, split_block
from data_tools.rejects import RejectSink
from data_tools.source import Batch, SourceError

_FIELD_END = b"\x1f"  # ASCII's own separator of fields, which stands for separators of several characters
_UNDECODABLE = b"\xff"  # replaces a line that is not in the encoding, which is then rejected as not UTF-8


@dataclass(frozen=True)
class Delimited:
    """How files are written; with `header=False` their columns are called 1, 2, 3, ….

    Without an `encoding`, files are UTF-8, and one whose first lines are not is refused; with one, lines that are not
    in it are rejected.

    Raises:
        SourceError: an unknown encoding, one such as UTF-16 whose line ends are not those of ASCII, or a separator that
            cannot be one.
    """

    separator: str = ","
    encoding: str | None = None
    header: bool = True
    quoted: bool = True

    def __post_init__(self) -> None:
        if not self.separator or not self.separator.isascii() or set(self.separator) & set('"\r\n\0'):
            raise SourceError(
                f"the separator is {self.separator!r}, but must consist of ASCII characters other than quotes"
            )
        try:
            ascii_lines = "a\n,".encode(self.encoding or "utf-8").removeprefix(BOM_UTF8) == b"a\n,"
        except LookupError:
            raise SourceError(f"the encoding {self.encoding!r} is not known; try latin-1, cp1252 or gb18030") from None
        if not ascii_lines:
            raise SourceError(f"files in {self.encoding} cannot be read: convert them to UTF-8, for example with iconv")

    def columns(self, path: Path) -> list[str]:
        """Names of the columns.

        Raises:
            SourceError: no first line, not UTF-8 although no encoding was given, or a name that is empty or repeated.
        """
        first = next(self._blocks(path), b"")
        if self.encoding is None:
            _require_utf8(path, first)
        line = first.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
        if not line.strip():
            raise SourceError(f"{path}, line 1: expected {'a header' if self.header else 'fields'}, found nothing")
        fields = split_line(line, path, self.separator) if self._is_quoted else line.split(self.separator)
        names = [field.strip() for field in fields] if self.header else [str(n + 1) for n in range(len(fields))]
        require_distinct(path, names)
        return names

    def count(self, path: Path) -> int | None:
        """Number of lines, good enough for a progress bar; None for a compressed file."""
        return count_lines([path])

    def read(self, path: Path, label: str, reject: RejectSink) -> Iterator[Batch]:
        """Yield batches of all columns as strings, called `label`; malformed records go to `reject`."""
        names, blocks, start = self.columns(path), self._blocks(path, self.header), 1 + self.header
        if self._is_quoted:
            yield from read_csv_blocks(blocks, names, label, start, reject, self.separator)
            return
        separator = self.separator.encode()
        for block in blocks:
            lines = block if len(separator) == 1 else block.replace(_FIELD_END, b" ").replace(separator, _FIELD_END)
            yield from split_block(lines, separator if len(separator) == 1 else _FIELD_END, names, label, start, reject)
            start += block.count(b"\n")

    @property
    def _is_quoted(self) -> bool:
        return self.quoted and len(self.separator) == 1

    def _blocks(self, path: Path, skip_header: bool = False) -> Iterator[bytes]:
        for block in line_blocks(path, skip_header):
            yield block if self.encoding in (None, "utf-8", "utf-8-sig") else _to_utf8(block, self.encoding or "")


def separator_of(text: str) -> str:
    """The separator that a user typed: `tab` and `\\t` are the character."""
    return "\t" if text in ("tab", "\\t") else text


def _require_utf8(path: Path, block: bytes) -> None:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = block.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{path}, line {line}: not UTF-8; state the encoding of the file, such as --encoding latin-1 or cp1252 "
            "(--encoding utf-8 rejects the lines that are not)"
        ) from None


def _to_utf8(block: bytes, encoding: str) -> bytes:
    try:
        return block.decode(encoding).encode("utf-8")
    except UnicodeDecodeError:
        return b"".join(_line_to_utf8(line, encoding) for line in block.split(b"\n")[:-1])


def _line_to_utf8(line: bytes, encoding: str) -> bytes:
    try:
        return line.decode(encoding).encode("utf-8") + b"\n"
    except UnicodeDecodeError:
        return _UNDECODABLE + b"\n"
