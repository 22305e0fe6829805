"""The text files of the code released with TransRec (Adapter4Rec), without headers.

users    user<TAB>item item …, oldest first, separated by spaces
items    item<TAB>title, or item<TAB>title<TAB>abstract
images   <item>.jpg; optional. The released LMDB files hold pickles and are not read.

There are no times: an item's timestamp is its position in the sequence, the oldest at 1. A split by time is therefore
meaningless.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import require_file
from data_tools.reading.item_text import compose_text
from data_tools.reading.row_files import read_headless_rows
from data_tools.reading.text_blocks import count_lines, first_line
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, SourceError, Totals
from data_tools.sources.sequences import read_user_sequences

ITEM_COLUMNS = ["item_id", "title", "abstract"]


class TransRecTsvSource:
    """Reads the two files.

    Raises:
        SourceError: a file or the folder of images is missing, or the items do not have 2 or 3 columns.
    """

    def __init__(self, users: Path, items: Path, images: Path | None = None) -> None:
        self._users, self._items = require_file(users), require_file(items)
        if images is not None and not images.is_dir():
            raise SourceError(f"{images} is not a folder")
        columns = first_line(items).count("\t") + 1
        if columns not in (2, 3):
            raise SourceError(f"{items}, line 1: {columns} columns, expected 2 or 3: item, title, abstract")
        self._columns = ITEM_COLUMNS[:columns]
        self._images = ImageFolder(images) if images else None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--users", type=Path, required=True, metavar="FILE", help="user<TAB>item item …")
        parser.add_argument("--items", type=Path, required=True, metavar="FILE", help="item<TAB>title[<TAB>abstract]")
        parser.add_argument("--images", type=Path, metavar="DIR", help="folder of <item>.jpg")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.users, arguments.items, arguments.images)

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        return Totals(count_lines([self._items]), None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_headless_rows(self._items, self._columns, reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id, title = row["item_id"], row["title"]
                yield Item(
                    file=batch.file,
                    line=line,
                    item_id=item_id,
                    title=title,
                    text=compose_text([title, row.get("abstract", "")]),
                    fields={},
                    image=self._images.locate(f"{item_id}.jpg", batch.file, line, reject) if self._images else None,
                )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        return read_user_sequences(self._users, reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())
