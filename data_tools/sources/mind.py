"""MIND, the Microsoft News data set (https://msnews.github.io): folders with `news.tsv` and `behaviors.tsv`.

Neither file has a header. Each line of news.tsv is a news article. Each line of behaviors.tsv is an impression: the
user, the time, the articles shown, which of them were clicked (`N1-1`; any other label is not a click), and the history
of clicks before it. A user's interactions are the history of the earliest impression, once, and all clicks at the time
of their impression. All labelled articles become impressions, with the head `click`, the line of behaviors.tsv as their
request and, as context, their `position` in the line, from 0. Times are assumed to be UTC, because the format has no
time zones. The history has no times: its clicks are placed one second apart, the last of them one second before that
impression, which keeps their order.

Folders are combined (train and dev): an article that occurs again with the same content counts once. The test folder
has no labels, so only its histories are used, as interactions.

A first pass over behaviors.tsv finds the earliest impressions; it keeps a user id and a time per impression in memory.
For the news, only ids and a hash of the content are kept.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.input_files import label_files, require_distinct_paths, require_file
from data_tools.reading.item_text import compose_text
from data_tools.reading.row_files import read_headless_rows
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import (
    Failure,
    is_empty,
    iterate_rows,
    time_failures,
    to_seconds,
    to_strings,
    without_failures,
)
from data_tools.rejects import Reason, RejectSink, ignore
from data_tools.source import IMPRESSION_COLUMNS, Batch, Item, Totals
from data_tools.sources.sequences import Elements, make_interactions, split_sequences

NEWS = ["item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
BEHAVIORS = ["impression_id", "user_id", "time", "history", "impressions"]
SHOWN = pa.schema([*IMPRESSION_COLUMNS, ("label_click", pa.float32()), ("shown_position", pa.string())])
TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"


class MindSource:
    """Reads the folders.

    Raises:
        SourceError: a folder lacks one of the two files, or is given twice.
    """

    def __init__(self, folders: list[Path]) -> None:
        require_distinct_paths(folders)
        self._news = label_files([require_file(folder / "news.tsv") for folder in folders])
        self._behaviors = label_files([require_file(folder / "behaviors.tsv") for folder in folders])

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input", type=Path, nargs="+", required=True, metavar="DIR", help="folders, such as MINDlarge_train"
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input)

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        """The number of articles; interactions are not counted, because an impression may have any number of them."""
        return Totals(count_lines(self._news), None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        seen: dict[str, bytes] = {}
        for path, label in self._news.items():
            for raw in read_headless_rows(path, NEWS, reject, label):
                for line, row in iterate_rows(to_strings(raw, "item_id", reject)):
                    content = _digest(row)
                    if seen.get(row["item_id"]) != content:
                        seen.setdefault(row["item_id"], content)
                        yield _to_item(label, line, row)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        earliest, first = self._find_earliest(), 0
        for batch in self._read_behaviors(reject):
            with_history = pa.array(earliest[first : first + len(batch.rows)])
            first += len(batch.rows)
            yield _read_history(Batch(batch.file, batch.lines.filter(with_history), batch.rows.filter(with_history)))
            yield _read_clicks(batch)

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in self._read_behaviors(ignore):  # `interactions` rejects what is malformed
            yield _read_shown(batch)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())

    def _read_behaviors(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield the usable impressions, with `time` in seconds."""
        for path, label in self._behaviors.items():
            for batch in read_headless_rows(path, BEHAVIORS, reject, label):
                rows = batch.rows
                time = to_seconds(rows["time"], TIME_FORMAT)
                failures = [
                    Failure(Reason.EMPTY_ID, is_empty(rows["user_id"]), "user_id", rows["user_id"]),
                    *time_failures(time, rows["time"], TIME_FORMAT, "time"),
                ]
                rows = rows.set_column(BEHAVIORS.index("time"), "time", time)
                yield without_failures(Batch(label, batch.lines, rows), failures, reject)

    def _find_earliest(self) -> np.ndarray:
        """Whether each usable impression, in reading order, is the earliest of its user; ties go to the first."""
        users, times = [], []
        for batch in self._read_behaviors(ignore):
            users.append(batch.rows["user_id"])
            times.append(batch.rows["time"])
        encoded = pa.chunked_array(users, pa.string()).combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()
        order = np.lexsort((pa.chunked_array(times, pa.int64()).to_numpy(), codes))  # stable
        earliest = np.zeros(len(codes), bool)
        earliest[order[np.diff(codes[order], prepend=-1) != 0]] = True
        return earliest


def _to_item(file: str, line: int, row: dict[str, str]) -> Item:
    return Item(
        file=file,
        line=line,
        item_id=row["item_id"],
        title=row["title"],
        text=compose_text([row["title"], row["abstract"]]),
        fields={"category": row["category"], "subcategory": row["subcategory"]},
        image=None,
    )


def _digest(row: dict[str, str]) -> bytes:
    content = "\t".join(row[name] for name in ("category", "subcategory", "title", "abstract"))
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def _read_history(batch: Batch) -> Batch:
    clicks = split_sequences(batch.rows["history"])
    before = clicks.lengths[clicks.row] - clicks.position
    return make_interactions(batch, clicks, batch.rows["time"].to_numpy()[clicks.row] - before)


def _read_clicks(batch: Batch) -> Batch:
    shown, clicked = _read_labelled(batch)
    clicks = shown.only(clicked)
    return make_interactions(batch, clicks, batch.rows["time"].to_numpy()[clicks.row])


def _read_shown(batch: Batch) -> Batch:
    shown, clicked = _read_labelled(batch)
    rows = pa.array(shown.row)
    lines = batch.lines.take(rows)
    columns = [
        batch.rows["user_id"].take(rows),
        shown.values,
        batch.rows["time"].take(rows),
        pc.binary_join_element_wise(batch.file, lines.cast(pa.string()), ":"),
        clicked.cast(pa.float32()),
        pa.array(shown.position).cast(pa.string()),
    ]
    return Batch(batch.file, lines, pa.RecordBatch.from_arrays(columns, schema=SHOWN))


def _read_labelled(batch: Batch) -> tuple[Elements, pa.BooleanArray]:
    """The labelled articles of the impressions, without their labels, and which of them were clicked."""
    shown = split_sequences(batch.rows["impressions"])
    shown = shown.only(pc.match_substring_regex(shown.values, "-[01]$"))
    return shown._replace(values=pc.utf8_slice_codeunits(shown.values, 0, -2)), pc.ends_with(shown.values, "-1")
