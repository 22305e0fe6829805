"""Any text files of separated fields (CSV, TSV, `::` and so on, also `.gz`), with columns mapped by options.

Interactions need `user_id`, `item_id` and `timestamp` and may have `rating`; items need `item_id` and `title` or
`text` and may have `image`, a file in `images/` beside the items; users need `user_id`; impressions are as in a folder
of tables. Columns with other names are mapped: `--columns user_id=uid,item_id=sku,timestamp=when`; files without a
header (`--no-header`) have the columns 1, 2, 3, …: `--columns user_id=1,item_id=2`. A name may be mapped several
times: each file uses the first column that it has, so files without headers share the mapping. Other columns of items
and users are kept, and those of impressions are context; other columns of interactions are not read.

Without `--items`, the items are those of the interactions, in order of first appearance, and an item's title is its id.
Without `--interactions`, the clicks of the impressions are the interactions, and without `--items`, the items are those
of all impressions.

What the format leaves open: fields are separated by `--separator` (by default tabs in `.tsv`, `.tab` and their `.gz`,
commas elsewhere) and quoted as in RFC 4180, unless the separator has several characters. Files are UTF-8 or in
`--encoding`. Timestamps are numbers in `--timestamp-unit`, or texts in `--time-format`: `iso` (ISO 8601, mixed forms)
or one form as for strptime, with a year but without %f and %Z; in UTC or at the offset that they give.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from data_tools.reading.delimited import Delimited, separator_of
from data_tools.reading.first_rows import first_rows
from data_tools.reading.folder_source import add_unit_argument
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.item_rows import to_items
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
from data_tools.reading.time_formats import GIVE_FORMAT, require_time_format
from data_tools.reading.typed_columns import UNITS, clicked, iterate_rows, to_impressions, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import INTERACTION_COLUMNS, Batch, Item, Totals

_TABBED = (".tsv", ".tab", ".tsv.gz", ".tab.gz")


class CsvSource:
    """Reads the files of each kind, given by patterns or as folders, in the order given; `time` is as in `to_seconds`.

    Raises:
        SourceError: a file or a column is missing, a mapped column is in no file or not read, a file is not in the
            encoding, or the format of times cannot be read.
    """

    def __init__(
        self,
        interactions: list[str] | None,
        items: list[str] | None = None,
        users: list[str] | None = None,
        columns: list[tuple[str, str]] | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        header: bool = True,
        time: str = "s",
        impressions: list[str] | None = None,
    ) -> None:
        require_histories(interactions, impressions)
        if time not in UNITS:
            require_time_format(time)
        self._mapping, self._separator, self._time = columns or [], separator, time
        self._form = Delimited(separator or ",", encoding, header)
        form = _DelimitedFiles(self._form, separator)
        self._interactions = MappedTable(interactions or [], self._mapping, INTERACTION_NAMES, form)
        self._items = MappedTable(items or [], self._mapping, frozenset({"item_id"}), form)
        self._users = MappedTable(users or [], self._mapping, frozenset({"user_id"}), form)
        self._impressions = MappedTable(impressions or [], self._mapping, INTERACTION_NAMES, form)
        require_title(self._items)
        require_labelled(self._impressions)
        remark_labelled(self._interactions)
        require_same_columns("--users", self._users)
        require_same_columns("--impressions", self._impressions)
        require_use(self._mapping, self._interactions, [self._items, self._users, self._impressions])

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add_table_arguments(parser, required=())
        parser.add_argument(
            "--separator",
            metavar="TEXT",
            help="separator of fields: `,` `;` `|` `tab` `::` … (default: by the file's name)",
        )
        parser.add_argument(
            "--encoding",
            metavar="NAME",
            help="encoding of the files, such as latin-1, cp1252 or gb18030 (default: UTF-8)",
        )
        parser.add_argument(
            "--no-header", action="store_true", help="the files have no header; their columns are called 1, 2, 3, …"
        )
        times = parser.add_mutually_exclusive_group()
        add_unit_argument(times)
        times.add_argument(
            "--time-format",
            metavar="FORMAT",
            help="format of timestamps that are texts: iso (2025-08-14, 2025-08-14T13:40:00Z) or '%%d.%%m.%%Y %%H:%%M'",
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(
            arguments.interactions,
            arguments.items,
            arguments.users,
            arguments.columns,
            arguments.separator and separator_of(arguments.separator),
            arguments.encoding,
            not arguments.no_header,
            arguments.timestamp_unit if arguments.time_format is None else arguments.time_format,
            arguments.impressions,
        )

    def options(self) -> dict[str, Any]:
        return {
            "columns": describe_mapping(self._mapping),
            "separator": self._separator,
            "encoding": self._form.encoding,
            "header": self._form.header,
            "time": self._time,
            **unread_columns(self._interactions),
        }

    def totals(self) -> Totals:
        items = self._items.count() if self._items.files else None
        interactions = self._interactions.count() if self._interactions.files else None
        return Totals(items, interactions, self._impressions.count())

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._items.files:
            images = ImageFolder(path.parent / "images")
            for batch in self._items.read(path, reject):
                yield from to_items(batch, images, reject)
        if not self._items.files:
            seen = self._interactions if self._interactions.files else self._impressions
            ids = (to_strings(batch, "item_id", ignore) for batch in _read(seen, ignore, {"item_id"}))
            for batch in first_rows(ids, "item_id"):
                for line, row in iterate_rows(batch):
                    yield Item(batch.file, line, row["item_id"], row["item_id"], "", {}, image=None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        if not self._interactions.files:
            yield from map(clicked, self.impressions(ignore))  # `impressions` reports its rejects itself
        for batch in _read(self._interactions, reject, set(INTERACTION_COLUMNS.names)):
            yield to_interactions(batch, reject, self._time, GIVE_FORMAT)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._impressions.files:
            for batch in self._impressions.read(path, reject):
                yield to_impressions(batch, reject, self._time, GIVE_FORMAT)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._users.files:
            for batch in self._users.read(path, reject):
                yield to_strings(batch, "user_id", reject)


def _read(table: MappedTable, reject: RejectSink, wanted: set[str]) -> Iterator[Batch]:
    for path in table.files:
        yield from table.read(path, reject, frozenset(wanted))


class _DelimitedFiles:
    """Files in a given form. Without a separator, each file's name determines it."""

    def __init__(self, form: Delimited, separator: str | None) -> None:
        self._form, self._separator = form, separator

    def columns(self, path: Path) -> list[str]:
        return self._of(path).columns(path)

    def count(self, path: Path) -> int | None:
        return self._form.count(path)

    def read(self, path: Path, columns: Sequence[str], label: str, reject: RejectSink) -> Iterator[Batch]:
        return self._of(path).read(path, label, reject)

    def _of(self, path: Path) -> Delimited:
        tabbed = self._separator is None and path.name.lower().endswith(_TABBED)
        return replace(self._form, separator="\t") if tabbed else self._form
