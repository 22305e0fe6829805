"""Amazon-M2, sessions of six shops (https://kddcup23.github.io), the folder as unpacked.

sessions_train.csv    prev_items (`['B09W9FND7K' 'B09JSPLN1M']`), next_item, locale
products_train.csv    id, locale, title, brand, color, size, model, material, author, desc, …

What the format leaves open: each session becomes a user, named after its locale and line number because sessions have
no ids; its interactions are prev_items and then next_item. There are no times: an item's timestamp is its position in
the session, from 1 for the oldest, so a split by time is meaningless. A product has different texts in different shops,
so a set holds one shop, `--locale`. The files of the test phases lack the next items and are not read.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.csv_files import read_csv, require_csv
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, Totals
from data_tools.sources.sequences import make_interactions, split_sequences

LOCALES = ("UK", "DE", "JP", "ES", "FR", "IT")
_PRODUCT = ("brand", "color", "size", "model", "material", "author")
_QUOTED = re.compile(r"'([^']*)'")


class AmazonM2Source:
    """Reads the folder.

    Raises:
        SourceError: a file or a column is missing.
    """

    def __init__(self, folder: Path, locale: str) -> None:
        self._locale = locale
        self._sessions = require_csv(folder / "sessions_train.csv", {"prev_items", "next_item", "locale"})
        self._products = require_csv(folder / "products_train.csv", {"id", "locale", "title", "desc", *_PRODUCT})

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        text = "folder of sessions_train.csv and products_train.csv"
        parser.add_argument("--input", type=Path, required=True, metavar="DIR", help=text)
        parser.add_argument("--locale", choices=LOCALES, default="UK", help="the shop (default: UK)")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, arguments.locale)

    def options(self) -> dict[str, Any]:
        return {"locale": self._locale}

    def totals(self) -> Totals:
        return Totals(count_lines([self._products]), None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_csv(self._products, reject):
            batch = to_strings(self._of_locale(raw), "id", reject)
            for line, row in iterate_rows(batch):
                title = row["title"].strip()
                text = compose_text([title, row["brand"], row["color"], row["desc"]])
                yield Item(batch.file, line, row["id"], title, text, {name: row[name] for name in _PRODUCT}, image=None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for raw in read_csv(self._sessions, reject):
            batch = self._of_locale(raw)
            sessions = [
                " ".join([*_QUOTED.findall(row["prev_items"]), row["next_item"]]) for row in batch.rows.to_pylist()
            ]
            users = [f"{self._locale}-{line}" for line in batch.lines.to_pylist()]
            columns = [pa.array(users, pa.string()), pa.array(sessions, pa.string())]
            named = batch._replace(rows=pa.RecordBatch.from_arrays(columns, ["user_id", "items"]))
            elements = split_sequences(named.rows["items"])
            yield make_interactions(named, elements, elements.position + 1)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())

    def _of_locale(self, batch: Batch) -> Batch:
        chosen = pc.equal(batch.rows["locale"], self._locale)
        return Batch(batch.file, batch.lines.filter(chosen), batch.rows.filter(chosen))
