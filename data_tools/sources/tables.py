"""A folder of plain tables.

items.tsv|.parquet           item_id, title and/or text, image (a file under images/), any other columns
interactions.tsv|.parquet    user_id, item_id, timestamp (since 1970, in --timestamp-unit), rating (optional); without
                             this file, the clicks of the impressions are the interactions; with only a header, the
                             set is a catalogue of items without users
impressions.tsv|.parquet     what was shown: user_id, item_id, timestamp, click (0, 1, false, true, or empty: not
                             observed), or instead of click several columns label_<head>; request_id (optional; without
                             it, what a user was shown at the same second is one request); any other columns are the
                             context (position, price, …). The file is optional. If there is a file of interactions,
                             clicks do not count as interactions.
users.tsv|.parquet           user_id and any other columns; optional
images/

Lists and structs among the other columns become JSON texts; columns of bytes are left out, and `index.json` lists them.
In Parquet, `image` may also hold the image itself, as bytes or as a struct of `bytes` and `path`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.item_rows import BYTES_READ, to_items
from data_tools.reading.row_files import IDS_READ, LeftOut, column_names, count_rows, find_row_file, read_rows
from data_tools.reading.time_formats import READ_AS_CSV
from data_tools.reading.typed_columns import (
    clicked,
    not_read,
    remark_labels,
    require_labels,
    to_impressions,
    to_interactions,
    to_strings,
)
from data_tools.rejects import RejectSink, ignore
from data_tools.source import INTERACTION_COLUMNS, Batch, Item, SourceError, Totals


class TablesSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: a table or a required column is missing.
    """

    input_is = "folder of the tables: items, interactions and, optionally, users and impressions (what was shown)"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        self._images = ImageFolder(folder / "images")
        self._items = _require_table(folder, "items", {"item_id"})
        self._impressions = find_row_file(folder, "impressions")
        self._interactions = find_row_file(folder, "interactions")
        if self._interactions is not None or self._impressions is None:
            alone = ": for items alone, give an interactions.tsv with only its header, user_id, item_id and timestamp"
            self._interactions = _require_table(folder, "interactions", {"user_id", "item_id", "timestamp"}, alone)
            remark_labels(self._interactions, column_names(self._interactions))
        self._users = find_row_file(folder, "users")
        tables = {self._items: BYTES_READ, self._impressions: IDS_READ, self._users: IDS_READ}
        self._left_out = LeftOut({path: names for path, names in tables.items() if path is not None})
        if not {"title", "text"} & set(column_names(self._items)):
            raise SourceError(f"{self._items}: needs a column title or text")
        if self._impressions is not None:
            _require_columns(self._impressions, {"user_id", "item_id", "timestamp"})
            require_labels(self._impressions, column_names(self._impressions))
        if self._users is not None:
            _require_columns(self._users, {"user_id"})

    def options(self) -> dict[str, Any]:
        return super().options() | self._left_out.options() | not_read(self._unread())

    def totals(self) -> Totals:
        optional = (None if path is None else count_rows(path) for path in (self._interactions, self._impressions))
        return Totals(count_rows(self._items), *optional)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for batch in read_rows(self._items, reject, left_out=self._left_out.of(self._items)):
            yield from to_items(batch, self._images, reject)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        if self._interactions is None:
            yield from map(clicked, self.impressions(ignore))  # `impressions` reports its rejects itself
            return
        for batch in read_rows(self._interactions, reject, left_out=self._unread()):
            yield to_interactions(batch, reject, self.unit, READ_AS_CSV)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        if self._impressions is not None:
            for batch in read_rows(self._impressions, reject, left_out=self._left_out.of(self._impressions)):
                yield to_impressions(batch, reject, self.unit, READ_AS_CSV)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self._users is not None:
            for batch in read_rows(self._users, reject, left_out=self._left_out.of(self._users)):
                yield to_strings(batch, "user_id", reject)

    def _unread(self) -> list[str]:
        """The columns of the interactions that are not read."""
        found = [] if self._interactions is None else column_names(self._interactions)
        return [name for name in found if name not in INTERACTION_COLUMNS.names]


def _require_table(folder: Path, name: str, columns: set[str], advice: str = "") -> Path:
    path = find_row_file(folder, name)
    if path is None:
        raise SourceError(f"{folder} has no {name}.tsv or {name}.parquet{advice}")
    _require_columns(path, columns)
    return path


def _require_columns(path: Path, columns: set[str]) -> None:
    found = column_names(path)
    if missing := columns - set(found):
        raise SourceError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(found)}")
