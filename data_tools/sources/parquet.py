"""Any Parquet files, with columns mapped by options.

Interactions need `user_id`, `item_id` and `timestamp` and may have `rating`; items need `item_id` and `title` or
`text` and may have `image`, a file in `images/` beside the items; users need `user_id`. Columns with other names are
mapped: `--columns user_id=uid,item_id=sku,item_id=id`. A name may be mapped several times: each file uses the first
column that it has. Other columns of items and users are kept; other columns of interactions are not read. Lists and
structs become JSON texts; columns of bytes are left out, and `index.json` lists them. `image` may also hold the image
itself, as bytes or as a struct of `bytes` and `path`. A folder may be one of Hive's: what its partitions state
(`year=2024/part-0.parquet`) is a column like others.

Timestamps are numbers in `--timestamp-unit`, or Parquet dates and timestamps, in UTC. Whole batches are converted at
once and only the needed columns are read, so tens of millions of rows take minutes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from data_tools.reading.folder_source import add_unit_argument
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import find_files, label_files, partition_of
from data_tools.reading.item_rows import BYTES_READ, to_items
from data_tools.reading.row_files import LeftOut, column_names, count_rows, read_parquet
from data_tools.reading.typed_columns import UNITS, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.sources.source import INTERACTION_COLUMNS, Batch, Item, SourceError, Totals


class ParquetSource:
    """Reads the files of each kind, given by patterns or as folders, in the order given.

    Raises:
        SourceError: a file or a column is missing, a mapped column is in no file, or the unit is unknown.
    """

    def __init__(
        self,
        interactions: list[str],
        items: list[str],
        users: list[str] | None = None,
        columns: list[tuple[str, str]] | None = None,
        timestamp_unit: str = "s",
    ) -> None:
        if timestamp_unit not in UNITS:
            raise SourceError(f"--timestamp-unit is {timestamp_unit!r}, expected one of {', '.join(UNITS)}")
        self._mapping, self._unit = columns or [], timestamp_unit
        self._interactions = _Table(interactions, self._mapping, {"user_id", "item_id", "timestamp"})
        self._items = _Table(items, self._mapping, {"item_id"}, BYTES_READ)
        self._users = _Table(users or [], self._mapping, {"user_id"})
        self._left_out = LeftOut({**self._items.kept, **self._users.kept})
        _require_title(self._items)
        _require_same_columns(self._users)
        _require_use(self._mapping, [self._interactions, self._items, self._users])

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        for kind in ("interactions", "items", "users"):
            parser.add_argument(f"--{kind}", nargs="+", required=kind != "users", metavar="FILE")
        parser.add_argument(
            "--columns", type=_parse_mapping, default=[], metavar="NAME=COLUMN,…", help="e.g. user_id=uid,item_id=sku"
        )
        add_unit_argument(parser)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(
            arguments.interactions, arguments.items, arguments.users, arguments.columns, arguments.timestamp_unit
        )

    def options(self) -> dict[str, Any]:
        columns = ",".join(f"{name}={column}" for name, column in self._mapping)
        return {"columns": columns, "timestamp_unit": self._unit, **self._left_out.options()}

    def totals(self) -> Totals:
        return Totals(self._items.count(), self._interactions.count())

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._items.files:
            images = ImageFolder(path.parent / "images")
            for batch in self._items.read(path, left_out=self._left_out.of(path)):
                yield from to_items(batch, images, reject)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._interactions.files:
            for batch in self._interactions.read(path, set(INTERACTION_COLUMNS.names)):
                yield to_interactions(batch, reject, self._unit)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._users.files:
            for batch in self._users.read(path, left_out=self._left_out.of(path)):
                yield to_strings(batch, "user_id", reject)


class _Table:
    """Files of one kind; for each file, `names` maps our column names to those of the file and its partition."""

    def __init__(
        self,
        patterns: list[str],
        mapping: list[tuple[str, str]],
        required: set[str],
        bytes_read: frozenset[str] = frozenset({"user_id"}),
    ) -> None:
        self.files = label_files(find_files(patterns))
        self._partitions = {path: partition_of(path, patterns) for path in self.files}
        self.names = {path: _map_names(self._columns(path), mapping) for path in self.files}
        self.kept = {path: {names[name] for name in bytes_read & set(names)} for path, names in self.names.items()}
        for path, names in self.names.items():
            if missing := required - set(names):
                found = ", ".join(self._columns(path))
                raise SourceError(
                    f"{path}: no column {', '.join(sorted(missing))}; map one with --columns, it has {found}"
                )

    def count(self) -> int:
        return sum(count_rows(path) or 0 for path in self.files)

    def read(self, path: Path, wanted: set[str] | None = None, left_out: Sequence[str] = ()) -> Iterator[Batch]:
        names = {
            name: column
            for name, column in self.names[path].items()
            if (wanted is None or name in wanted) and column not in left_out
        }
        stored = set(column_names(path))
        for batch in read_parquet(path, [column for column in names.values() if column in stored], self.files[path]):
            columns = [self._column(batch.rows, path, column) for column in names.values()]
            yield batch._replace(rows=pa.RecordBatch.from_arrays(columns, list(names)))

    def _columns(self, path: Path) -> list[str]:
        return list(dict.fromkeys([*column_names(path), *self._partitions[path]]))

    def _column(self, rows: pa.RecordBatch, path: Path, name: str) -> pa.Array:
        if name in rows.schema.names:
            return rows[name]
        return pa.array([self._partitions[path][name]] * len(rows), pa.string())


def _map_names(columns: list[str], mapping: list[tuple[str, str]]) -> dict[str, str]:
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


def _require_title(items: _Table) -> None:
    for path, names in items.names.items():
        if not {"title", "text"} & set(names):
            raise SourceError(f"{path}: needs a column title or text; map one with --columns")


def _require_same_columns(users: _Table) -> None:
    if len({tuple(names) for names in users.names.values()}) > 1:
        raise SourceError("--users: the files must all have the same columns, in the same order")


def _require_use(mapping: list[tuple[str, str]], tables: list[_Table]) -> None:
    used = {column for table in tables for names in table.names.values() for column in names.values()}
    if unused := [column for _, column in mapping if column not in used]:
        raise SourceError(f"--columns: no file has a column {', '.join(unused)}")
