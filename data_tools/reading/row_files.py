"""Reads tab-separated and Parquet files as Arrow batches with line numbers.

Tab-separated files: UTF-8 (a byte order mark is allowed), LF or CRLF, no quoting; blank lines are skipped. Column
names are in the header line, or given by the caller for a file without one. Every column is a string.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.reading.column_texts import is_bytes
from data_tools.reading.text_blocks import count_lines, first_line, line_blocks, split_block
from data_tools.rejects import RejectSink
from data_tools.source import Batch, SourceError
from transrec.files import is_git_lfs_pointer

IDS_READ = frozenset({"user_id", "item_id", "request_id"})  # columns that are read even if they are bytes
_PARQUET_BUFFER = 2**20
_ROWS_AT_ONCE, _IMAGES_AT_ONCE = 2**16, 64


def find_row_file(folder: Path, name: str) -> Path | None:
    """`folder/name.tsv` or `folder/name.parquet`, whichever exists, or None.

    Raises:
        SourceError: both exist.
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
        names = [name.strip() for name in first_line(path).split("\t")]
    require_distinct(path, names)
    return names


class LeftOut:
    """The Parquet columns of some files that hold bytes, not text, except those that a file keeps."""

    def __init__(self, kept: Mapping[Path, Set[str]]) -> None:
        self._columns = {path: _bytes_columns(path, names) for path, names in kept.items()}

    def of(self, path: Path) -> list[str]:
        return self._columns[path]

    def options(self) -> dict[str, Any]:
        """The entry in `index.json` about columns that were left out; empty if there are none."""
        names = sorted({name for columns in self._columns.values() for name in columns})
        return {"left_out": names} if names else {}


def _bytes_columns(path: Path, kept: Set[str]) -> list[str]:
    if path.suffix != ".parquet":
        return []
    return [field.name for field in _open_parquet(path).schema_arrow if is_bytes(field.type) and field.name not in kept]


def require_distinct(path: Path, names: list[str]) -> None:
    """Raise SourceError if a column name is empty or appears twice."""
    if len(set(names)) != len(names) or not all(names):
        raise SourceError(f"{path}: column names must be distinct and not empty, found {names}")


def count_rows(path: Path) -> int | None:
    """Number of rows; for a tab-separated file, the number of newlines, good enough for a progress bar."""
    return int(_open_parquet(path).metadata.num_rows) if path.suffix == ".parquet" else count_lines([path])


def read_rows(
    path: Path, reject: RejectSink, label: str | None = None, left_out: Sequence[str] = ()
) -> Iterator[Batch]:
    """Read the file in batches; malformed lines go to `reject`. Parquet columns keep their types.

    The file is called `label`, by default its name, in batches and rejects. Parquet columns in `left_out` are not read.
    """
    names, label = column_names(path), label or path.name
    if path.suffix == ".parquet":
        return read_parquet(path, [name for name in names if name not in left_out], label)
    return _read_tsv(line_blocks(path, skip_header=True), names, label, 2, reject)


def read_headless_rows(
    path: Path, names: Sequence[str], reject: RejectSink, label: str | None = None
) -> Iterator[Batch]:
    """Read a tab-separated file without a header line, otherwise as `read_rows` does."""
    return _read_tsv(line_blocks(path), list(names), label or path.name, 1, reject)


def read_parquet(path: Path, columns: Sequence[str], label: str) -> Iterator[Batch]:
    """Yield batches of these columns, as they are in the file.

    Raises:
        SourceError: the file is not Parquet or damaged, or a text in it is not UTF-8.
    """
    first_row = 1
    with _open_parquet(path) as file:
        try:
            for rows in file.iter_batches(_rows_at_once(file.schema_arrow, columns), columns=list(columns)):
                rows.validate(full=True)
                yield Batch(label, pa.array(np.arange(first_row, first_row + len(rows))), rows)
                first_row += len(rows)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{path}: cannot be read from row {first_row} on ({error}): download the file again"
            ) from None


def _rows_at_once(schema: pa.Schema, columns: Sequence[str]) -> int:
    kinds = [schema.field(name).type for name in columns]
    images = any(is_bytes(kind) or (pa.types.is_struct(kind) and any(is_bytes(f.type) for f in kind)) for kind in kinds)
    return _IMAGES_AT_ONCE if images else _ROWS_AT_ONCE


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        # With pre-buffering, Arrow ends up holding the whole file; unbuffered, it holds whole columns of a row group.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        pointer = "it is a git-lfs pointer; run `git lfs pull` in its folder" if is_git_lfs_pointer(path) else error
        raise SourceError(f"{path} is not a readable Parquet file: {pointer}") from None


def _read_tsv(blocks: Iterator[bytes], names: list[str], label: str, start: int, reject: RejectSink) -> Iterator[Batch]:
    for block in blocks:
        yield from split_block(block, b"\t", names, label, start, reject)
        start += block.count(b"\n")
