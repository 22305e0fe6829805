"""PixelRec (https://github.com/westlake-repl/PixelRec), one of its sets, such as Pixel200K.

an interaction file    .csv with item_id, user_id, timestamp (in --timestamp-unit)
an item file           .csv with item_id, title, tag, description and counts (view_number, …)
cover/                 <item_id>.jpg; optional

What the format leaves open: the two files are recognised by their columns, because both are named after their set; they
are in the folder or its subfolders (`pixelrec_interaction/`, `pixelrec_iteminfo/`). The text is title, tag and
description; the counts are columns of the item. Covers lie in `cover/`, `covers/` or `images/`.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.csv_files import csv_columns, read_csv
from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, SourceError, Totals

_INTERACTION = ("user_id", "item_id", "timestamp")
_ITEM = ("item_id", "title", "tag", "description")
_COVERS = ("cover", "covers", "images")


class PixelRecSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder does not hold one file of interactions and one of items.
    """

    input_is = "folder of one CSV file of interactions, one of items and, optionally, cover/"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        columns = {
            path: csv_columns(path) for path in visible_files(folder, "*.csv") + visible_files(folder, "*/*.csv")
        }
        self._interactions = _find(folder, columns, _INTERACTION)
        self._items = _find(folder, columns, _ITEM)
        covers = (ImageFolder.find(folder / name) for name in _COVERS)
        self._covers = next(filter(None, covers), None)

    def totals(self) -> Totals:
        return Totals(count_lines([self._items]), count_lines([self._interactions]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_csv(self._items, reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id, title, tag, description = (row.pop(name) for name in _ITEM)
                cover = self._covers.locate(f"{item_id}.jpg", batch.file, line, reject) if self._covers else None
                text = compose_text([title, tag, description])
                yield Item(batch.file, line, item_id, title, text, {"tag": tag, **row}, cover)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_csv(self._interactions, reject):
            yield to_interactions(batch, reject, self.unit)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _find(folder: Path, columns: dict[Path, list[str]], wanted: tuple[str, ...]) -> Path:
    found = [path for path, names in columns.items() if set(wanted) <= set(names)]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise SourceError(f"{folder} must hold exactly one .csv with the columns {', '.join(wanted)}; found: {names}")
    return found[0]
