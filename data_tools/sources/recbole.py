"""RecBole's atomic files: `<name>.inter`, `<name>.item` and, optionally, `<name>.user`.

The files are tab-separated with typed headers (`item_id:token`, `title:token_seq`, `timestamp:float`). The title is
the text column whose name contains "title" or "name", otherwise the first `token_seq`; the text is all text columns,
each as a sentence. Timestamps are in `--timestamp-unit`.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text
from data_tools.reading.row_files import column_names, count_rows, read_rows
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.sources.source import Batch, Item, SourceError, Totals

TYPES = ("token", "token_seq", "float", "float_seq")


class RecBoleSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder does not hold exactly one data set, a file or field is missing, or a header is untyped.
    """

    input_is = "folder of atomic files"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        self._interactions = _find_interactions(folder)
        self._items = self._interactions.with_suffix(".item")
        users = self._interactions.with_suffix(".user")
        self._users = users if users.is_file() else None
        if not self._items.is_file():
            raise SourceError(f"{self._items} is missing")
        _require_fields(self._interactions, {"user_id", "item_id", "timestamp"})
        _require_fields(self._items, {"item_id"})
        if self._users is not None:
            _require_fields(self._users, {"user_id"})

    def totals(self) -> Totals:
        return Totals(count_rows(self._items), count_rows(self._interactions))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        types = field_types(self._items)
        text_fields = [name for name, kind in types.items() if kind.startswith("token") and name != "item_id"]
        title_field = _choose_title(types, text_fields)
        for raw in _read_fields(self._items, reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id, text = row.pop("item_id"), compose_text(row[name] for name in text_fields)
                title = row.pop(title_field) if title_field else ""
                yield Item(batch.file, line, item_id, title, text, row, image=None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in _read_fields(self._interactions, reject):
            yield to_interactions(batch, reject, self.unit)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self._users is not None:
            for batch in _read_fields(self._users, reject):
                yield to_strings(batch, "user_id", reject)


def field_types(path: Path) -> dict[str, str]:
    """Field name -> type, in file order.

    Raises:
        SourceError: a column is not `name:type` with one of RecBole's types.
    """
    types = {}
    for column in column_names(path):
        name, _, kind = column.rpartition(":")
        if not name or kind not in TYPES:
            raise SourceError(f"{path}: column {column!r} is not name:type with type one of {', '.join(TYPES)}")
        types[name] = kind
    return types


def _find_interactions(folder: Path) -> Path:
    found = visible_files(folder, "*.inter")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{folder} must hold exactly one .inter file, found {names}")
    return found[0]


def _require_fields(path: Path, names: set[str]) -> None:
    types = field_types(path)
    if missing := names - set(types):
        raise SourceError(f"{path}: no field {', '.join(sorted(missing))}; it has {', '.join(types)}")


def _read_fields(path: Path, reject: RejectSink) -> Iterator[Batch]:
    """Yield batches with the types removed from the column names."""
    names = list(field_types(path))
    for batch in read_rows(path, reject):
        yield batch._replace(rows=batch.rows.rename_columns(names))


def _choose_title(types: dict[str, str], text_fields: list[str]) -> str | None:
    named = [name for name in text_fields if "title" in name.lower() or "name" in name.lower()]
    sequences = [name for name in text_fields if types[name] == "token_seq"]
    return next(iter(named + sequences), None)
