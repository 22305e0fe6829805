"""EB-NeRD, news of Ekstra Bladet (https://recsys.eb.dk): a bundle as unpacked, such as ebnerd_small.

articles.parquet                        article_id, title, subtitle, body, category_str, article_type, …
train/, validation/, test/              behaviors.parquet and history.parquet of each
    behaviors.parquet                   user_id, impression_time, article_ids_inview, article_ids_clicked, age, …
    history.parquet                     user_id, article_id_fixed and impression_time_fixed, two lists

What the format leaves open: a user's interactions are the history of the first split that has the user, taken once, and
all clicks, at the time of their impression; the history of a later split repeats the clicks of the previous split with
different times. All articles in view become impressions, with the head `click` and one request per impression of the
log; the order of the list has no meaning, because it was shuffled. The test split has no clicks, so only its histories
are used, and only on request (`--splits train validation test`). Times are assumed to be UTC. The text is title and
subtitle; the body is a column of its own. A user's columns are those of the user's first impression.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_tools.reading.first_rows import first_rows
from data_tools.reading.input_files import require_file
from data_tools.reading.item_text import compose_text
from data_tools.reading.row_files import column_names, count_rows, read_parquet
from data_tools.reading.typed_columns import iterate_rows, to_impressions, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

SPLITS = ("train", "validation", "test")
PROFILE = ("is_subscriber", "gender", "postcode", "age")
_ARTICLE = ("article_id", "title", "subtitle", "body", "category_str", "article_type")
_CLICKED = "article_ids_clicked"


class EBNeRDSource:
    """Reads the bundle.

    Raises:
        SourceError: a file or a column is missing.
    """

    def __init__(self, folder: Path, splits: list[str]) -> None:
        self._splits = splits
        self._articles = _require(folder / "articles.parquet", {*_ARTICLE})
        histories = {"user_id", "article_id_fixed", "impression_time_fixed"}
        self._histories = {split: _require(folder / split / "history.parquet", histories) for split in splits}
        self._behaviors = {
            split: _require(folder / split / "behaviors.parquet", {"user_id", "impression_time"}) for split in splits
        }

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        text = "folder of articles.parquet and, in train/ and validation/, behaviors.parquet and history.parquet"
        parser.add_argument("--input", type=Path, required=True, metavar="DIR", help=text)
        parser.add_argument(
            "--splits", nargs="+", choices=SPLITS, default=["train", "validation"], help="default: train validation"
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, sorted(set(arguments.splits), key=SPLITS.index))

    def options(self) -> dict[str, Any]:
        return {"splits": self._splits}

    def totals(self) -> Totals:
        """The number of articles; interactions are not counted, because an impression may have any number of them."""
        return Totals(count_rows(self._articles), None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_parquet(self._articles, _ARTICLE, self._articles.name):
            batch = to_strings(raw, "article_id", reject)
            for line, row in iterate_rows(batch):
                yield Item(
                    file=batch.file,
                    line=line,
                    item_id=row["article_id"],
                    title=row["title"],
                    text=compose_text([row["title"], row["subtitle"]]),
                    fields={"category": row["category_str"], "article_type": row["article_type"], "body": row["body"]},
                    image=None,
                )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        seen: set[int] = set()
        for split, path in self._histories.items():
            columns = ["user_id", "article_id_fixed", "impression_time_fixed"]
            for raw in read_parquet(path, columns, f"{split}/{path.name}"):
                yield to_interactions(_flatten(_of_new_users(raw, seen), "impression_time_fixed"), reject)
        for split, path in self._behaviors.items():
            if _CLICKED in column_names(path):
                for raw in read_parquet(path, ["user_id", _CLICKED, "impression_time"], f"{split}/{path.name}"):
                    yield to_interactions(_flatten(raw, "impression_time"), reject)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        columns = ["user_id", "article_ids_inview", "impression_time", "impression_id", _CLICKED]
        for raw in self._read_behaviors(columns):
            yield to_impressions(_shown(raw), reject)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        columns = ["user_id", *PROFILE]
        yield from first_rows((_profiles(raw) for raw in self._read_behaviors(columns)), "user_id")

    def _read_behaviors(self, columns: list[str]) -> Iterator[Batch]:
        for split, path in self._behaviors.items():
            if set(columns) <= set(column_names(path)):
                yield from read_parquet(path, columns, f"{split}/{path.name}")


def _require(path: Path, columns: set[str]) -> Path:
    if missing := columns - set(found := column_names(require_file(path))):
        raise SourceError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(found)}")
    return path


def _profiles(raw: Batch) -> Batch:
    return to_strings(raw, "user_id", ignore)


def _of_new_users(raw: Batch, seen: set[int]) -> Batch:
    """The rows of users that are not in `seen`, to which they are added."""
    new = np.zeros(len(raw.rows), bool)
    for row, user in enumerate(raw.rows["user_id"].to_pylist()):
        new[row] = user not in seen
        seen.add(user)
    mask = pa.array(new)
    return Batch(raw.file, raw.lines.filter(mask), raw.rows.filter(mask))


def _shown(raw: Batch) -> Batch:
    """One row for each article in view, with the label `click`."""
    shown = _flatten(raw, "impression_time")
    inview, clicks = raw.rows["article_ids_inview"], raw.rows[_CLICKED]
    clicked = np.isin(_pairs(inview), _pairs(clicks))
    request = raw.rows["impression_id"].take(pc.list_parent_indices(inview))
    labelled = shown.rows.append_column("request_id", request).append_column("click", pa.array(clicked))
    return shown._replace(rows=labelled)


def _pairs(lists: pa.ListArray) -> NDArray[np.int64]:
    """A number for each element of the lists, equal for equal elements of the same list."""
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    pairs: NDArray[np.int64] = rows << 32 | lists.flatten().fill_null(0).to_numpy().astype(np.int64)
    return pairs


def _flatten(raw: Batch, time: str) -> Batch:
    """One row for each article of the second column, a list; `time` is a list of as many, or one time for all.

    Raises:
        SourceError: lists of different lengths.
    """
    users, articles, times = raw.rows["user_id"], raw.rows.column(1), raw.rows[time]
    row = pc.list_parent_indices(articles)
    if not pa.types.is_list(times.type) and not pa.types.is_large_list(times.type):
        times = times.take(row)
    elif pc.list_value_length(articles).equals(pc.list_value_length(times)):
        times = times.flatten()
    else:
        raise SourceError(f"{raw.file}: a history has different numbers of articles and times")
    columns = [users.take(row), articles.flatten(), times]
    rows = pa.RecordBatch.from_arrays(columns, ["user_id", "item_id", "timestamp"])
    return Batch(raw.file, raw.lines.take(row), rows)
