"""Goodreads book graph (https://cseweb.ucsd.edu/~jmcauley/datasets.html#goodreads), one genre or all; also `.gz`.

goodreads_books….json           book_id, title, description, authors, format, …
goodreads_interactions….json    user_id, book_id, is_read, rating, date_added, …

What the format leaves open: a row is a book that a user put on a shelf; it is an interaction at `date_added`, whatever
the shelf. A rating of 0 means no rating. The text is title and description; authors are kept as the
numeric ids of the data. Reviews, genres and series are not read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.folder_source import FolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text, flatten
from data_tools.reading.json_lines import read_json_lines, read_objects, to_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import to_interactions
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, Item, SourceError, Totals

KEYS = {"user_id": "user_id", "book_id": "item_id", "date_added": "timestamp", "rating": "rating"}
# A date such as `Wed Mar 22 11:37:04 -0700 2017`: the part that Arrow reads, and the time zone, which it does not read.
_DATE = (
    r"^[A-Z][a-z]{2} (?P<date>[A-Z][a-z]{2} [0-9]{2} [0-9:]{8}) "
    r"(?P<sign>[+-])(?P<hours>[0-9]{2})(?P<minutes>[0-9]{2}) (?P<year>[0-9]{4})$"
)
_FIELDS = ("format", "publisher", "publication_year", "language_code")


class GoodreadsSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: a file is missing, or occurs more than once.
    """

    input_is = "folder of one goodreads_books….json and one goodreads_interactions….json, also .gz"

    def __init__(self, folder: Path) -> None:
        self._books, self._shelved = _find(folder, "goodreads_books*"), _find(folder, "goodreads_interactions*")

    def totals(self) -> Totals:
        return Totals(count_lines([self._books]), count_lines([self._shelved]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for line, book in read_objects(self._books, reject):
            item_id = to_text(book.get("book_id")) or ""
            if item_id.strip():
                yield _to_item(self._books.name, line, item_id, book)
            else:
                reject(Reject(self._books.name, line, Reason.EMPTY_ID, "no book_id"))

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_json_lines(self._shelved, list(KEYS), reject):
            rows = batch.rows.rename_columns(list(KEYS.values()))
            rating = pc.if_else(pc.equal(rows["rating"], "0"), pa.scalar(None, pa.string()), rows["rating"])
            times = pc.coalesce(_to_seconds(rows["timestamp"]).cast(pa.string()), rows["timestamp"])
            columns = [rows["user_id"], rows["item_id"], times, rating]
            rows = pa.RecordBatch.from_arrays(columns, list(KEYS.values()))
            yield to_interactions(batch._replace(rows=rows), reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _find(folder: Path, pattern: str) -> Path:
    found = visible_files(folder, f"{pattern}.json") + visible_files(folder, f"{pattern}.json.gz")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{folder} must hold one {pattern}.json or .json.gz, found {names}")
    return found[0]


def _to_item(file: str, line: int, item_id: str, book: dict[str, Any]) -> Item:
    title, description = (" ".join(flatten(book.get(key))) for key in ("title", "description"))
    listed = book.get("authors")
    authors = [to_text(author.get("author_id")) or "" for author in listed or [] if isinstance(author, dict)]
    fields = {"authors": " ".join(authors)} | {name: to_text(book.get(name)) or "" for name in _FIELDS}
    return Item(file, line, item_id, title, compose_text([title, description]), fields, image=None)


def _to_seconds(dates: pa.StringArray) -> pa.Int64Array:
    """Seconds since 1970, null where the text is no such date."""
    parts = pc.extract_regex(dates, _DATE)
    part = {field.name: pc.struct_field(parts, field.name) for field in parts.type}
    local = pc.strptime(
        pc.binary_join_element_wise(part["date"], part["year"], " "),
        format="%b %d %H:%M:%S %Y",
        unit="s",
        error_is_null=True,
    )
    ahead = pc.add(pc.multiply(part["hours"].cast(pa.int64()), 3600), pc.multiply(part["minutes"].cast(pa.int64()), 60))
    sign = pc.if_else(pc.equal(part["sign"], "-"), -1, 1)
    return pc.subtract(local.cast(pa.int64()), pc.multiply(ahead, sign))
