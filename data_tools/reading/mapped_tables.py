"""Tables from files with any columns, mapped to the project's own columns by options (`--columns`).

Interactions need `user_id`, `item_id` and `timestamp` and may have `rating`; items need `item_id` and `title` or
`text` and may have `image`; users need `user_id`; impressions, whose clicks are the interactions if there are no files
of those, need `user_id`, `item_id`, `timestamp` and `click` or `label_<head>`. A name may be mapped several times:
each file uses the first of these columns that it has. Other columns keep their names.
"""

import argparse
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from data_tools.reading.input_files import find_files, label_files, partition_of
from data_tools.reading.typed_columns import not_read, remark_labels, require_labels
from data_tools.rejects import RejectSink
from data_tools.source import INTERACTION_COLUMNS, Batch, SourceError
from transrec.data.shards.schema import LABEL_PREFIX

INTERACTION_NAMES = frozenset({"user_id", "item_id", "timestamp"})
_OF_INTERACTIONS = frozenset(INTERACTION_COLUMNS.names)
_READ = ("user_id", "item_id", "timestamp", "rating", "title", "text", "image", "request_id", "click")  # and labels


class FileFormat(Protocol):
    """How one file is read."""

    def columns(self, path: Path) -> list[str]: ...

    def count(self, path: Path) -> int | None:
        """Number of rows, if it is known without reading."""

    def read(self, path: Path, columns: Sequence[str], label: str, reject: RejectSink) -> Iterator[Batch]:
        """Yield batches with at least these columns."""


class MappedTable:
    """Files of one kind; for each file, `names` maps our column names to those of the file and its partition.

    Raises:
        SourceError: no file, or one without a required column.
    """

    def __init__(
        self, patterns: list[str], mapping: Sequence[tuple[str, str]], required: frozenset[str], form: FileFormat
    ) -> None:
        self._format, self._mapping = form, mapping
        self.files = label_files(find_files(patterns))
        self._partitions = {path: partition_of(path, patterns) for path in self.files}
        self.names = {path: _map_names(self._columns(path), mapping) for path in self.files}
        for path, names in self.names.items():
            if missing := sorted(required - set(names)):
                raise SourceError(f"{path}: no column {', '.join(missing)}; {self.advice(path, missing)}")

    def count(self) -> int | None:
        counts = [self._format.count(path) for path in self.files]
        return None if None in counts else sum(count or 0 for count in counts)

    def read(
        self, path: Path, reject: RejectSink, wanted: frozenset[str] | None = None, left_out: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Yield batches of the `wanted` columns, or all, under our names, without those of the file in `left_out`."""
        names = {
            name: column
            for name, column in self.names[path].items()
            if (wanted is None or name in wanted) and column not in left_out
        }
        stored = set(self._format.columns(path))
        columns = [column for column in names.values() if column in stored]
        for batch in self._format.read(path, columns, self.files[path], reject):
            arrays = [self._column(batch.rows, path, column) for column in names.values()]
            yield batch._replace(rows=pa.RecordBatch.from_arrays(arrays, list(names)))

    def advice(self, path: Path, missing: Sequence[str]) -> str:
        """How to map the columns that a file lacks, or which part of the mapping is misspelt."""
        found = self._columns(path)
        for name, column in self._mapping:
            if name in missing and column not in found:
                near = get_close_matches(column, found, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(found)}"
                return f"--columns {name}={column}: the file has no column {column}; {hint}"
            if name not in _READ and column in found and (near := get_close_matches(name, missing, n=1)):
                return f"--columns {name}={column}: did you mean {near[0]}={column}?"
        return f"map one with --columns, it has {', '.join(found)}"

    def _columns(self, path: Path) -> list[str]:
        return list(dict.fromkeys([*self._format.columns(path), *self._partitions[path]]))

    def _column(self, rows: pa.RecordBatch, path: Path, name: str) -> pa.Array:
        if name in rows.schema.names:
            return rows[name]
        return pa.array([self._partitions[path][name]] * len(rows), pa.string())


def add_table_arguments(parser: argparse.ArgumentParser, required: Sequence[str]) -> None:
    """Add --interactions, --items, --users, --impressions and --columns."""
    for kind in ("interactions", "items", "users", "impressions"):
        text = f"files or folders of {kind}" if kind in required else f"files or folders of {kind}; optional"
        parser.add_argument(f"--{kind}", nargs="+", required=kind in required, metavar="FILE", help=text)
    parser.add_argument(
        "--columns",
        type=_parse_mapping,
        default=[],
        metavar="NAME=COLUMN,…",
        help="columns with other names: user_id=uid,item_id=sku",
    )


def require_histories(interactions: Sequence[str] | None, impressions: Sequence[str] | None) -> None:
    """Raise SourceError if there are files neither of interactions nor of impressions, whose clicks can stand in."""
    if not interactions and not impressions:
        raise SourceError("give files with --interactions or, if the data has only impressions, with --impressions")


def remark_labelled(interactions: MappedTable) -> None:
    """Warn if a file of interactions looks like a log of impressions."""
    for path, names in interactions.names.items():
        remark_labels(path, list(names))


def unread_columns(interactions: MappedTable) -> dict[str, Any]:
    """The entry in `index.json` about columns of the files of interactions that are not read."""
    tables = interactions.names.values()
    return not_read(column for names in tables for name, column in names.items() if name not in _OF_INTERACTIONS)


def require_title(items: MappedTable) -> None:
    """Raise SourceError if a file has neither title nor text."""
    for path, names in items.names.items():
        if not {"title", "text"} & set(names):
            raise SourceError(f"{path}: needs a column title or text; {items.advice(path, ['title', 'text'])}")


def require_labelled(impressions: MappedTable) -> None:
    """Raise SourceError if a file of impressions has no label."""
    for path, names in impressions.names.items():
        require_labels(path, list(names))


def require_same_columns(option: str, table: MappedTable) -> None:
    """Raise SourceError if the files of an option differ in their columns."""
    if len({tuple(names) for names in table.names.values()}) > 1:
        raise SourceError(f"{option}: the files must all have the same columns, in the same order")


def require_use(mapping: Sequence[tuple[str, str]], interactions: MappedTable, others: Sequence[MappedTable]) -> None:
    """Raise SourceError if a mapped column is in no file, or only in interactions under a name that nothing reads."""
    tables = [interactions, *others]
    used, kept = _columns_of(tables), _columns_of(others)
    if unused := [column for _, column in mapping if column not in used]:
        near = get_close_matches(unused[0], used, n=1)
        hint = f"did you mean {near[0]}?" if near else f"their columns are {', '.join(sorted(used))}"
        raise SourceError(f"--columns: no file has a column {', '.join(unused)}; {hint}")
    for name, column in mapping:
        if column not in kept and name not in _READ and not name.startswith(LABEL_PREFIX):
            near = get_close_matches(name, _READ, n=1)
            hint = f"did you mean {near[0]}?" if near else "their columns are user_id, item_id, timestamp and rating"
            raise SourceError(f"--columns {name}={column}: interactions have no column {name}; {hint}")


def describe_mapping(mapping: Sequence[tuple[str, str]]) -> str:
    """The mapping as a user would type it."""
    return ",".join(f"{name}={column}" for name, column in mapping)


def _columns_of(tables: Sequence[MappedTable]) -> set[str]:
    return {column for table in tables for names in table.names.values() for column in names.values()}


def _map_names(columns: list[str], mapping: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Our name -> the file's column; a column that is not mapped keeps its name unless the name is taken."""
    names: dict[str, str] = {}
    for name, column in mapping:
        if column in columns:
            names.setdefault(name, column)
    for column in columns:
        if column not in names.values():
            names.setdefault(column, column)
    return names


def _parse_mapping(text: str) -> list[tuple[str, str]]:
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"expected NAME=COLUMN,NAME=COLUMN, found {text!r}")
    return [(name, column) for name, column in pairs]
