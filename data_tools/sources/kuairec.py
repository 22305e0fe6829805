"""KuaiRec 2.0 (https://kuairec.com), the folder `data` of the archive.

big_matrix.csv, small_matrix.csv   user_id, video_id, timestamp (seconds since 1970), watch_ratio, …
kuairec_caption_category.csv       video_id, manual_cover_text, caption, topic_tag, …_level_category_name; in Chinese
item_categories.csv                video_id, feat
user_features.csv                  user_id and columns of the user

What the format leaves open: a row of a matrix is a video that was shown to a user, watched or not. Each is an
interaction, and its rating is `watch_ratio`, the share of the video that was watched (2 if it was watched twice), so
`--min-rating 0.7`, for example, keeps the videos that were mostly watched. Each is an impression as well, with the head
`watch`: 1 if the video was watched to its end, a ratio of 1 or more. The big matrix, which is the usual training set,
lacks the rows of the small one, in which every user was shown almost every video; build a set from each. Rows without a
time, of which the small matrix has some, are rejected.

The title is the caption, otherwise the text on the cover, otherwise `video <id>`; the files have
`UNKNOWN` for a missing text. A video without a row of captions is taken from item_categories.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.csv_files import read_csv, require_csv
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_impressions, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import Batch, Item, Totals

MATRICES = ("big", "small")
_NAMES = {"video_id": "item_id", "watch_ratio": "rating"}
_TEXTS = ("caption", "manual_cover_text", "topic_tag")
_LEVELS = ("first_level_category_name", "second_level_category_name", "third_level_category_name")
_UNKNOWN = "UNKNOWN"
_TO_ITS_END = 1.0  # watch_ratio


class KuaiRecSource:
    """Reads the folder.

    Raises:
        SourceError: a file or a column is missing.
    """

    def __init__(self, folder: Path, matrix: str) -> None:
        self._name = matrix
        wanted = {"user_id", "video_id", "timestamp", "watch_ratio"}
        self._matrix = require_csv(folder / f"{matrix}_matrix.csv", wanted)
        self._captions = require_csv(folder / "kuairec_caption_category.csv", {"video_id", *_TEXTS, *_LEVELS})
        self._categories = require_csv(folder / "item_categories.csv", {"video_id", "feat"})
        self._users = require_csv(folder / "user_features.csv", {"user_id"})

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        text = "folder of big_matrix.csv or small_matrix.csv, kuairec_caption_category.csv, item_categories.csv and "
        parser.add_argument("--input", type=Path, required=True, metavar="DIR", help=text + "user_features.csv")
        parser.add_argument("--matrix", choices=MATRICES, default="big", help="which matrix to read (default: big)")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, arguments.matrix)

    def options(self) -> dict[str, Any]:
        return {"matrix": self._name}

    def totals(self) -> Totals:
        shown = count_lines([self._matrix])
        return Totals(count_lines([self._categories]), shown, shown)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        seen: set[str] = set()
        for path in (self._captions, self._categories):
            for raw in read_csv(path, reject):
                batch = to_strings(_rename(raw), "item_id", reject)
                for line, row in iterate_rows(batch):
                    if path == self._captions or row["item_id"] not in seen:
                        seen.add(row["item_id"])
                        yield _to_item(batch.file, line, row)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_csv(self._matrix, reject):
            yield to_interactions(_rename(batch), reject)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        for raw in read_csv(self._matrix, ignore):  # `interactions` rejects what cannot be read
            batch = to_interactions(_rename(raw), ignore)
            watched = pc.greater_equal(batch.rows["rating"], _TO_ITS_END).cast(pa.int8())
            rows = batch.rows.select(["user_id", "item_id", "timestamp"]).append_column("label_watch", watched)
            yield to_impressions(batch._replace(rows=rows), reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_csv(self._users, reject):
            yield to_strings(batch, "user_id", reject)


def _rename(batch: Batch) -> Batch:
    names = [_NAMES.get(name, name) for name in batch.rows.schema.names]
    return batch._replace(rows=batch.rows.rename_columns(names))


def _to_item(file: str, line: int, row: dict[str, str]) -> Item:
    known = {name: "" if value.strip() == _UNKNOWN else value.strip() for name, value in row.items()}
    texts = [known.get(name, "") for name in (*_TEXTS, *_LEVELS)]
    title = texts[0] or texts[1] or f"video {row['item_id']}"
    category = " > ".join(filter(None, texts[len(_TEXTS) :]))
    return Item(file, line, row["item_id"], title, compose_text([title, *texts]), {"category": category}, image=None)
