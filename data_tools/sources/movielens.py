"""MovieLens (https://grouplens.org/datasets/movielens), a folder as unpacked:

100K                 u.data, u.item, u.user and u.genre
1M                   ratings.dat, movies.dat and users.dat
10M                  ratings.dat and movies.dat
20M, 25M, 32M, …     ratings.csv and movies.csv

The files that are there determine the format; columns of a file with a header are read by their names, in any order.
Every rating is an interaction; times are seconds since 1970. A title keeps its year, as published (`Toy Story (1995)`),
and its text is title and genres; year and genres are also columns of their own. Users' columns are those of the data:
in 1M, age and occupation are the codes of its README. Tags, links and genome scores are not read.

What the format leaves open: 100K and 1M are in Latin-1 and 10M in UTF-8, but copies in other encodings exist; a file
is read as UTF-8 if all of it is valid UTF-8, otherwise as Latin-1.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_tools.reading.delimited import Delimited
from data_tools.reading.folder_source import FolderSource
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import is_utf8
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, SourceError, Totals

_TABBED, _BARRED = (Delimited(separator, header=False, quoted=False) for separator in "\t|")
_BY_COLONS, _BY_COMMAS = Delimited("::", header=False), Delimited(",")
_RATING = ("user_id", "item_id", "rating", "timestamp")
_U_ITEM = ("item_id", "title", "release_date", "video_release_date", "url")  # and a flag for each genre
_GENRES_OF_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRES = "(no genres listed)"
_YEAR = re.compile(r"\((\d{4})(?:[-–]\d{0,4})?\)$")


class _File(NamedTuple):
    """The name of a file, its columns in our names, how it is written, and the columns as its header calls them."""

    name: str
    columns: tuple[str, ...]
    form: Delimited
    header: tuple[str, ...] = ()


class _Layout(NamedTuple):
    ratings: _File
    movies: _File
    users: _File | None


_LAYOUTS = (
    _Layout(
        _File("u.data", _RATING, _TABBED),
        _File("u.item", (*_U_ITEM, *_GENRES_OF_100K), _BARRED),
        _File("u.user", ("user_id", "age", "gender", "occupation", "zip_code"), _BARRED),
    ),
    _Layout(
        _File("ratings.dat", _RATING, _BY_COLONS),
        _File("movies.dat", ("item_id", "title", "genres"), _BY_COLONS),
        _File("users.dat", ("user_id", "gender", "age", "occupation", "zip_code"), _BY_COLONS),
    ),
    _Layout(
        _File("ratings.csv", _RATING, Delimited(), ("userId", "movieId", "rating", "timestamp")),
        _File("movies.csv", ("item_id", "title", "genres"), Delimited(), ("movieId", "title", "genres")),
        None,
    ),
)


class MovieLensSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder holds none of the layouts, or a file has other columns.
    """

    input_is = "folder with u.data, u.item and u.user, or ratings.dat and movies.dat, or ratings.csv and movies.csv"

    def __init__(self, folder: Path) -> None:
        layout = next((layout for layout in _LAYOUTS if (folder / layout.ratings.name).is_file()), None)
        if layout is None:
            names = " or ".join(layout.ratings.name for layout in _LAYOUTS)
            raise SourceError(f"{folder} has no ratings of MovieLens: it needs {names}")
        self._ratings = _Table(folder, layout.ratings)
        self._movies = _Table(folder, layout.movies)
        has_users = layout.users is not None and (folder / layout.users.name).is_file()
        self._users = _Table(folder, layout.users) if layout.users and has_users else None

    def totals(self) -> Totals:
        return Totals(self._movies.count(), self._ratings.count())

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in self._movies.read(reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                title, genres = row["title"].strip(), _genres(row)
                year = _YEAR.search(title)
                yield Item(
                    file=batch.file,
                    line=line,
                    item_id=row["item_id"],
                    title=title,
                    text=compose_text([title, ", ".join(genres)]),
                    fields={"year": year[1] if year else "", "genres": ", ".join(genres)},
                    image=None,
                )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in self._ratings.read(reject):
            yield to_interactions(batch, reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self._users is not None:
            for batch in self._users.read(reject):
                yield to_strings(batch, "user_id", reject)


class _Table:
    def __init__(self, folder: Path, file: _File) -> None:
        self._path, self._columns, self._header = folder / file.name, list(file.columns), list(file.header)
        if not self._path.is_file():
            raise SourceError(f"{self._path} is missing")
        self._form = file.form
        if not file.name.startswith(("u.data", "ratings")):  # ratings are ASCII and long
            self._form = Delimited(file.form.separator, _encoding(self._path), file.form.header, file.form.quoted)
        found = self._form.columns(self._path)
        if self._header and (missing := [name for name in self._header if name not in found]):
            raise SourceError(
                f"{self._path}, line 1: no column {', '.join(missing)}; expected {', '.join(self._header)}, it has "
                f"{', '.join(found)}"
            )
        if not self._header and len(found) != len(self._columns):
            raise SourceError(
                f"{self._path}, line 1: {len(found)} columns, expected {len(self._columns)}: {', '.join(self._columns)}"
            )

    def count(self) -> int | None:
        return self._form.count(self._path)

    def read(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in self._form.read(self._path, self._path.name, reject):
            rows = batch.rows.select(self._header) if self._header else batch.rows
            yield batch._replace(rows=rows.rename_columns(self._columns))


def _encoding(path: Path) -> str:
    return "utf-8" if is_utf8(path.read_bytes()) else "latin-1"


def _genres(row: dict[str, str]) -> list[str]:
    if "genres" in row:
        return [genre for genre in row["genres"].split("|") if genre and genre != _NO_GENRES]
    return [genre for genre in _GENRES_OF_100K if row[genre] == "1"]
