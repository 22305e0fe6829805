import gzip
import json
from datetime import datetime
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

BOOKS = [
    {"book_id": "7", "title": "Dracula", "description": "A count.", "authors": [{"author_id": "6988", "role": ""}],
     "format": "Paperback", "publisher": "X", "publication_year": "1897", "language_code": "eng"},
    {"book_id": "8", "title": "", "description": "No title", "authors": []},
    {"title": "Nameless"},
]  # fmt: skip
DATES = ["Wed Mar 22 11:37:04 -0700 2017", "Fri Nov 16 10:35:55 +0530 2012"]


def shelved(book: str, date: str, rating: int = 0) -> dict:
    return {"user_id": "u", "book_id": book, "review_id": "r", "is_read": True, "rating": rating, "date_added": date}


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, objects in (("books_poetry", BOOKS), ("interactions_poetry", rows)):
        data = "".join(json.dumps(row) + "\n" for row in objects).encode()
        (folder / f"goodreads_{name}.json.gz").write_bytes(gzip.compress(data))
    return folder


def test_books_and_shelves(tmp_path: Path) -> None:
    folder = write(tmp_path / "goodreads", [shelved("7", DATES[0], 5), shelved("8", DATES[1])])
    reading = read_source("goodreads", "--input", folder)
    seconds = [int(datetime.strptime(date, "%a %b %d %H:%M:%S %z %Y").timestamp()) for date in DATES]
    assert reading.interactions == [("u", "7", seconds[0], 5.0), ("u", "8", seconds[1], None)]
    dracula, other = reading.items
    assert (dracula.title, dracula.text) == ("Dracula", "Dracula. A count.")
    assert dracula.fields == {
        "authors": "6988", "format": "Paperback", "publisher": "X", "publication_year": "1897", "language_code": "eng"
    }  # fmt: skip
    assert other.text == "No title."
    assert reading.reasons() == [("goodreads_books_poetry.json.gz", 3, "empty_id")]
    index = build_twice("goodreads", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (1, 2, 2)


@pytest.mark.parametrize("date", ["", "2017-03-22", "Wed Mar 99 11:37:04 -0700 2017", "Wed Xyz 22 11:37:04 -0700 2017"])
def test_a_bad_date_is_rejected_with_its_line(tmp_path: Path, date: str) -> None:
    reading = read_source("goodreads", "--input", write(tmp_path, [shelved("7", DATES[0]), shelved("8", date)]))
    assert [row[1] for row in reading.interactions] == ["7"]
    assert reading.reasons()[1:] == [("goodreads_interactions_poetry.json.gz", 2, "bad_timestamp")]
    assert reading.rejects[1].detail == f"timestamp is {date!r}"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must hold one goodreads_books\*\.json or \.json\.gz, found none"):
        make_source("goodreads", "--input", tmp_path)
