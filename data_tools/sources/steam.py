"""Steam, version 2 (https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data); Python literals, also `.gz`.

steam_games.json      id, app_name, title, genres, tags, …
steam_new.json        username, product_id, date, hours, …; or steam_reviews.json, as it is also called

What the format leaves open: a review is an interaction of its `username`, which all reviews have, unlike `user_id`;
users with the same name become one. A review has a day but no time, so reviews of one day keep the order of the file.
The `hours` played are kept as the rating. A game without an id, of which there are two, is rejected.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.folder_source import FolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text, flatten
from data_tools.reading.json_lines import read_json_lines, read_objects, to_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import to_interactions
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, Item, SourceError, Totals

KEYS = {"username": "user_id", "product_id": "item_id", "date": "timestamp", "hours": "rating"}
TIME_FORMAT = "%Y-%m-%d"
_REVIEWS = ("steam_new.json*", "steam_reviews.json*")


class SteamSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: a file is missing, or occurs more than once.
    """

    input_is = "folder of steam_games.json and steam_new.json (or steam_reviews.json), also .gz"

    def __init__(self, folder: Path) -> None:
        self._games = _find(folder, ["steam_games.json*"])
        self._reviews = _find(folder, _REVIEWS)

    def totals(self) -> Totals:
        return Totals(count_lines([self._games]), count_lines([self._reviews]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for line, game in read_objects(self._games, reject, literals=True):
            item_id = to_text(game.get("id")) or ""
            title = next(iter(flatten(game.get("app_name")) + flatten(game.get("title"))), "")
            genres, tags = (", ".join(flatten(game.get(key))) for key in ("genres", "tags"))
            if item_id.strip():
                fields = {"genres": genres, "tags": tags, "developer": ", ".join(flatten(game.get("developer")))}
                yield Item(
                    self._games.name, line, item_id, title, compose_text([title, genres, tags]), fields, image=None
                )
            else:
                reject(Reject(self._games.name, line, Reason.EMPTY_ID, "no id"))

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_json_lines(self._reviews, list(KEYS), reject, literals=True):
            rows = batch.rows.rename_columns(list(KEYS.values()))
            yield to_interactions(batch._replace(rows=rows), reject, TIME_FORMAT)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _find(folder: Path, patterns: list[str] | tuple[str, ...]) -> Path:
    found = [path for pattern in patterns for path in visible_files(folder, pattern)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{folder} must hold one {' or '.join(patterns)}, found {names}")
    return found[0]
