"""Any Parquet files, with columns mapped by options.

Interactions need `user_id`, `item_id` and `timestamp` and may have `rating`; items need `item_id` and `title` or
`text` and may have `image`, a file in `images/` beside the items; users need `user_id`. Impressions need `user_id`,
`item_id`, `timestamp` and `click`, or instead of `click` columns `label_<head>`, and may have `request_id`, all as in
a folder of tables. Columns with other names are mapped: `--columns user_id=uid,item_id=sku,item_id=id`. A name may be
mapped several times: each file uses the first column that it has. Other columns of items and users are kept, and those
of impressions are context; other columns of interactions are not read. Lists and structs become JSON texts; columns of
bytes are left out, and `index.json` lists them. `image` may also hold the image itself, as bytes or as a struct of
`bytes` and `path`. A folder may be partitioned as by Hive: the values in its folder names
(`year=2024/part-0.parquet`) are columns like others.

Timestamps are numbers in `--timestamp-unit`, or Parquet dates and timestamps, in UTC. Whole batches are converted at
once and only the needed columns are read, so tens of millions of rows take minutes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from data_tools.reading.folder_source import add_unit_argument
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.item_rows import BYTES_READ, to_items
from data_tools.reading.mapped_tables import (
    INTERACTION_NAMES,
    MappedTable,
    add_table_arguments,
    describe_mapping,
    remark_labelled,
    require_histories,
    require_labelled,
    require_same_columns,
    require_title,
    require_use,
    unread_columns,
)
from data_tools.reading.row_files import IDS_READ, LeftOut, column_names, count_rows, read_parquet
from data_tools.reading.time_formats import READ_AS_CSV
from data_tools.reading.typed_columns import UNITS, clicked, to_impressions, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import INTERACTION_COLUMNS, Batch, Item, SourceError, Totals


class ParquetSource:
    """Reads the files of each kind, given by patterns or as folders, in the order given.

    Raises:
        SourceError: a file or a column is missing, a mapped column is in no file or not read, or the unit is unknown.
    """

    def __init__(
        self,
        interactions: list[str] | None,
        items: list[str],
        users: list[str] | None = None,
        columns: list[tuple[str, str]] | None = None,
        timestamp_unit: str = "s",
        impressions: list[str] | None = None,
    ) -> None:
        if timestamp_unit not in UNITS:
            raise SourceError(f"--timestamp-unit is {timestamp_unit!r}, expected one of {', '.join(UNITS)}")
        require_histories(interactions, impressions)
        self._mapping, self._unit = columns or [], timestamp_unit
        self._interactions = MappedTable(interactions or [], self._mapping, INTERACTION_NAMES, _ParquetFiles())
        self._items = MappedTable(items, self._mapping, frozenset({"item_id"}), _ParquetFiles())
        self._users = MappedTable(users or [], self._mapping, frozenset({"user_id"}), _ParquetFiles())
        self._impressions = MappedTable(impressions or [], self._mapping, INTERACTION_NAMES, _ParquetFiles())
        tables = {self._items: BYTES_READ, self._users: IDS_READ, self._impressions: IDS_READ}
        self._left_out = LeftOut(
            {path: kept for table, names in tables.items() for path, kept in _kept(table, names).items()}
        )
        require_title(self._items)
        require_labelled(self._impressions)
        remark_labelled(self._interactions)
        require_same_columns("--users", self._users)
        require_same_columns("--impressions", self._impressions)
        require_use(self._mapping, self._interactions, [self._items, self._users, self._impressions])

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add_table_arguments(parser, required=("items",))
        add_unit_argument(parser)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(
            arguments.interactions,
            arguments.items,
            arguments.users,
            arguments.columns,
            arguments.timestamp_unit,
            arguments.impressions,
        )

    def options(self) -> dict[str, Any]:
        columns = describe_mapping(self._mapping)
        unread = unread_columns(self._interactions)
        return {"columns": columns, "timestamp_unit": self._unit, **self._left_out.options(), **unread}

    def totals(self) -> Totals:
        interactions = self._interactions.count() if self._interactions.files else None
        return Totals(self._items.count(), interactions, self._impressions.count())

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._items.files:
            images = ImageFolder(path.parent / "images")
            for batch in self._items.read(path, reject, left_out=self._left_out.of(path)):
                yield from to_items(batch, images, reject)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        if not self._interactions.files:
            yield from map(clicked, self.impressions(ignore))  # `impressions` reports its rejects itself
        for path in self._interactions.files:
            for batch in self._interactions.read(path, reject, frozenset(INTERACTION_COLUMNS.names)):
                yield to_interactions(batch, reject, self._unit, READ_AS_CSV)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._impressions.files:
            for batch in self._impressions.read(path, reject, left_out=self._left_out.of(path)):
                yield to_impressions(batch, reject, self._unit, READ_AS_CSV)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._users.files:
            for batch in self._users.read(path, reject, left_out=self._left_out.of(path)):
                yield to_strings(batch, "user_id", reject)


class _ParquetFiles:
    def columns(self, path: Path) -> list[str]:
        return column_names(path)

    def count(self, path: Path) -> int | None:
        return count_rows(path)

    def read(self, path: Path, columns: Sequence[str], label: str, reject: RejectSink) -> Iterator[Batch]:
        return read_parquet(path, columns, label)


def _kept(table: MappedTable, names: frozenset[str]) -> dict[Path, set[str]]:
    """The columns of each file that are read even if they are bytes."""
    return {path: {found[name] for name in names & set(found)} for path, found in table.names.items()}
