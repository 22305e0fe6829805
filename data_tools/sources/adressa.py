"""Adressa, news of Adresseavisen (https://reclab.idi.ntnu.no/dataset): one JSON event per line, one file per day.

An event is a page that a user opened: `userId`, `time` (seconds since 1970), `id` of the article (or `documentId`),
`title`, `category1`, `keywords`, and `activeTime`, the seconds spent on it, which is kept as the rating. An event
without id or title, such as a view of the front page, is not a view of an item and is rejected as `not_an_item`. Such
events make up much of the data and make any `--strict` build fail. The articles are those named in events, with
the content of their first event. The files are read twice, and the ids of the articles are kept in memory.
"""

import argparse
from collections.abc import Iterator
from typing import Any, Self

import pyarrow.compute as pc

from data_tools.reading.input_files import find_files, label_files
from data_tools.reading.item_text import compose_text
from data_tools.reading.json_lines import read_json_lines
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import (
    Failure,
    is_empty,
    iterate_rows,
    to_interactions,
    to_strings,
    without_failures,
)
from data_tools.rejects import Reason, RejectSink, ignore
from data_tools.source import Batch, Item, Totals

KEYS = {
    "userId": "user_id",
    "id": "item_id",
    "time": "timestamp",
    "activeTime": "rating",
    "documentId": "documentId",
    "title": "title",
    "category1": "category1",
    "keywords": "keywords",
}


class AdressaSource:
    """Reads the files in the order given; the files of a folder are sorted by name.

    Raises:
        SourceError: a file is missing.
    """

    def __init__(self, inputs: list[str]) -> None:
        self._files = label_files(find_files(inputs))

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input", nargs="+", required=True, metavar="PATH", help="event files (also .gz), or folders of them"
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input)

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        return Totals(None, count_lines(self._files))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        """The articles; unusable events are rejected with the interactions."""
        seen: set[str] = set()
        for raw in self._views(ignore):
            for line, row in iterate_rows(to_strings(raw, "item_id", ignore)):
                if row["item_id"] not in seen:
                    seen.add(row["item_id"])
                    yield Item(
                        file=raw.file,
                        line=line,
                        item_id=row["item_id"],
                        title=row["title"],
                        text=compose_text([row["title"], row["keywords"].replace(",", ", ")]),
                        fields={"category": row["category1"]},
                        image=None,
                    )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in self._views(reject):
            yield to_interactions(batch, reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())

    def _views(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield the events that have an article."""
        for path, label in self._files.items():
            for batch in read_json_lines(path, list(KEYS), reject, label):
                rows = batch.rows.rename_columns(list(KEYS.values()))
                item_id = pc.if_else(is_empty(rows["item_id"]), rows["documentId"], rows["item_id"])
                rows = rows.set_column(rows.schema.get_field_index("item_id"), "item_id", item_id)
                failures = [
                    Failure(Reason.NOT_AN_ITEM, is_empty(item_id), "id", item_id),
                    Failure(Reason.NOT_AN_ITEM, is_empty(rows["title"]), "title", rows["title"]),
                ]
                yield without_failures(batch._replace(rows=rows), failures, reject)
