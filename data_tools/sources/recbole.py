"""RecBole's atomic files: `<name>.inter` and, optionally, `<name>.item` and `<name>.user`.

The files are tab-separated with typed headers (`item_id:token`, `title:token_seq`, `timestamp:float`). The title is
the text column whose name contains "title" or "name", otherwise the first `token_seq`; the text is all text columns,
each as a sentence; other columns keep their names, except that `title` and `text` always mean these two. Timestamps
are in `--timestamp-unit`.

Interactions may be split as for a benchmark: `<name>.train.inter`, `<name>.valid.inter` and `<name>.test.inter` are
read in this order. Without `.item`, the items are those of the interactions, and an item's title is its id. Without
`timestamp`, a row's time is its place among all rows, from 1, so that a split by time is meaningless.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data_tools.reading.first_rows import first_rows
from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text
from data_tools.reading.row_files import column_names, count_rows, read_rows
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

TYPES = ("token", "token_seq", "float", "float_seq")
_SPLITS = ("train", "valid", "test")  # in the order of time


class RecBoleSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder does not hold exactly one data set, a field is missing, or a header is untyped.
    """

    input_is = "folder of atomic files"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        self._interactions, name = _find_interactions(folder)
        self._items, self._users = (
            path if (path := folder / f"{name}.{kind}").is_file() else None for kind in ("item", "user")
        )
        self._is_timed = "timestamp" in field_types(self._interactions[0])
        fields = {"user_id", "item_id"} | ({"timestamp"} if self._is_timed else set())
        for path in self._interactions:
            _require_fields(path, fields)
            if "item_id_list" in field_types(path):
                raise SourceError(
                    f"{path} repeats histories in item_id_list: give the .inter file that it was made from"
                )
        if self._items is not None:
            _require_fields(self._items, {"item_id"})
        if self._users is not None:
            _require_fields(self._users, {"user_id"})

    def totals(self) -> Totals:
        rows = [count_rows(path) or 0 for path in self._interactions]
        return Totals(None if self._items is None else count_rows(self._items), sum(rows))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        return self._items_of_interactions() if self._items is None else _items(self._items, reject)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        before = 0  # rows of the files read so far
        for path in self._interactions:
            last = 0
            for raw in _read_fields(path, reject):
                batch, last = raw, raw.lines[-1].as_py() if len(raw.lines) else last
                if not self._is_timed:
                    places = pa.array(raw.lines.to_numpy() - 1 + before, pa.int64())
                    batch = raw._replace(rows=raw.rows.append_column("timestamp", places))
                yield to_interactions(batch, reject, self.unit if self._is_timed else "s")
            before += max(0, last - 1)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self._users is not None:
            for batch in _read_fields(self._users, reject):
                yield to_strings(batch, "user_id", reject)

    def _items_of_interactions(self) -> Iterator[Item]:
        rows = (raw for path in self._interactions for raw in _read_fields(path, ignore))
        ids = (to_strings(raw._replace(rows=raw.rows.select(["item_id"])), "item_id", ignore) for raw in rows)
        for batch in first_rows(ids, "item_id"):
            for line, row in iterate_rows(batch):
                yield Item(batch.file, line, row["item_id"], row["item_id"], "", {}, image=None)


def _items(path: Path, reject: RejectSink) -> Iterator[Item]:
    types = field_types(path)
    text_fields = [name for name, kind in types.items() if kind.startswith("token") and name != "item_id"]
    title_field = _choose_title(types, text_fields)
    for raw in _read_fields(path, reject):
        batch = to_strings(raw, "item_id", reject)
        for line, row in iterate_rows(batch):
            item_id, text = row.pop("item_id"), compose_text(row[name] for name in text_fields)
            title = row.pop(title_field) if title_field else ""
            yield Item(batch.file, line, item_id, title, text, row, image=None)


def field_types(path: Path) -> dict[str, str]:
    """Field name -> type, in file order.

    Raises:
        SourceError: a column is not `name:type` with one of RecBole's types, or a name appears twice.
    """
    types = {}
    for column in column_names(path):
        name, _, kind = column.rpartition(":")
        if not name or kind not in TYPES:
            raise SourceError(f"{path}: column {column!r} is not name:type with type one of {', '.join(TYPES)}")
        if name in types:
            raise SourceError(f"{path}: field {name} appears twice: rename or remove one")
        types[name] = kind
    return types


def _find_interactions(folder: Path) -> tuple[list[Path], str]:
    """The files of interactions, and the name of the data set."""
    found = visible_files(folder, "*.inter")
    if len(found) == 1 and found[0].stem.rpartition(".")[2] not in _SPLITS:
        return found, found[0].stem
    data_sets = {path.stem.rpartition(".")[0] for path in found}
    if len(data_sets) == 1 and all(path.stem.rpartition(".")[2] in _SPLITS for path in found):
        return sorted(found, key=lambda path: _SPLITS.index(path.stem.rpartition(".")[2])), data_sets.pop()
    names = ", ".join(path.name for path in found) or "none"
    raise SourceError(
        f"{folder} must hold one .inter file, or the splits x.train.inter, x.valid.inter and x.test.inter of one data "
        f"set, found {names}"
    )


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
