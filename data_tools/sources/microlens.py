"""MicroLens (https://github.com/westlake-repl/MicroLens), the folder of one of its sets, such as MicroLens-100k.

*_pairs.csv                      user, item, timestamp (milliseconds since 1970)
*_pairs.tsv                      user<TAB>item item …, oldest first; read only without the file above
*_title_en.csv or *_titles.csv   item, title
*_covers/                        <item>.jpg; optional

What the format leaves open: a file has a header if the item in its first line is not a number; columns are then read by
their names, in any order. In a file of titles with a header, titles are quoted; without one, as in 100k, a title is
everything after the first comma. If there are titles in both languages, the English ones are used. Comments, likes,
views, videos and audio are not read.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data_tools.reading.csv_files import first_record, read_csv, read_headless_csv
from data_tools.reading.folder_source import FolderSource
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import visible_files
from data_tools.reading.text_blocks import count_lines, first_line, line_blocks, split_block
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, SourceError, Totals
from data_tools.sources.sequences import read_user_sequences

_PAIR = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}  # name in a header -> ours
_TITLE = {"item": "item_id", "title": "title"}
_TITLES = ("*_title_en.csv", "*_titles_en.csv", "*_title.csv", "*_titles.csv")
_FIELD_END = b"\x1f"


class MicroLensSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder does not hold one set, or a file has other columns.
    """

    input_is = "folder of *_pairs.csv (or *_pairs.tsv), *_title_en.csv or *_titles.csv and, optionally, *_covers/"

    def __init__(self, folder: Path) -> None:
        pairs, sequences = _find(folder, "*_pairs.csv"), _find(folder, "*_pairs.tsv")
        if pairs is None and sequences is None:
            raise SourceError(f"{folder} has no *_pairs.csv and no *_pairs.tsv")
        if pairs:
            _require_columns(pairs, _PAIR)
        self._pairs, self._sequences = pairs, sequences
        titles = next(filter(None, (_find(folder, pattern) for pattern in _TITLES)), None)
        if titles is None:
            raise SourceError(f"{folder} has none of {', '.join(_TITLES)}")
        self._titles = titles
        if _has_header(titles, _TITLE):
            _require_columns(titles, _TITLE)
        covers = sorted(path for path in folder.glob("*_covers") if path.is_dir() and not path.name.startswith("."))
        self._covers = ImageFolder(covers[0]) if covers else None

    def totals(self) -> Totals:
        return Totals(count_lines([self._titles]), count_lines([self._pairs]) if self._pairs else None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in _read_titles(self._titles, reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id, title = row["item_id"], row["title"]
                cover = self._covers.locate(f"{item_id}.jpg", batch.file, line, reject) if self._covers else None
                yield Item(batch.file, line, item_id, title, title, {}, cover)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        if self._pairs:
            for batch in _read(self._pairs, _PAIR, reject):
                yield to_interactions(batch, reject, "ms")
        elif self._sequences:
            yield from read_user_sequences(self._sequences, reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _find(folder: Path, pattern: str) -> Path | None:
    found = visible_files(folder, pattern)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{folder} must hold one data set, but has {names}: move the others elsewhere")
    return found[0] if found else None


def _has_header(path: Path, names: dict[str, str]) -> bool:
    fields, item = first_line(path).split(","), list(names).index("item")
    return len(fields) > item and not fields[item].strip().isdecimal()


def _require_columns(path: Path, names: dict[str, str]) -> None:
    """Raise SourceError if the file has another number of columns, or a header with other names."""
    found, expected = first_record(path), ", ".join(names)
    if len(found) != len(names):
        raise SourceError(f"{path}, line 1: {len(found)} columns, expected {len(names)}: {expected}")
    if _has_header(path, names) and {*found} != {*names}:
        raise SourceError(f"{path}, line 1: the columns {', '.join(found)}, expected {expected}, in any order")


def _read(path: Path, names: dict[str, str], reject: RejectSink) -> Iterator[Batch]:
    if not _has_header(path, names):
        yield from read_headless_csv(path, list(names.values()), reject)
        return
    for batch in read_csv(path, reject):
        yield batch._replace(rows=batch.rows.select(list(names)).rename_columns(list(names.values())))


def _read_titles(path: Path, reject: RejectSink) -> Iterator[Batch]:
    if _has_header(path, _TITLE):
        yield from _read(path, _TITLE, reject)
        return
    start = 1
    for block in line_blocks(path):
        lines = (line.replace(b",", _FIELD_END, 1) + b"\n" for line in block.split(b"\n")[:-1])
        for batch in split_block(b"".join(lines), _FIELD_END, list(_TITLE.values()), path.name, start, reject):
            titles = pa.array([_unquoted(title) for title in batch.rows["title"].to_pylist()], pa.string())
            yield batch._replace(rows=batch.rows.set_column(1, "title", titles))
        start += block.count(b"\n")


def _unquoted(title: str) -> str:
    if len(title) > 1 and title[0] == title[-1] == '"':
        return title[1:-1].replace('""', '"')
    return title
