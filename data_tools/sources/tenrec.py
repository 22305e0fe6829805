"""Tenrec (https://github.com/yuangh-x/2022-NIPS-Tenrec): one file, such as QK-video.csv, with a header.

user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age

A line is an item that was shown to a user; it is an interaction if the chosen feedback is 1 (also written 1.0 or True)
and none if it is 0 (0.0, False or empty). A line with any other feedback is rejected. Only the ids and that
column are required; gender and age become the user's profile. The data has no times and no texts: the time is the line
number, since a user's lines are assumed to be in order; an item's title is its id, and its text is the category.
Build one set of shards from each file.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from data_tools.reading.csv_files import csv_columns, read_csv
from data_tools.reading.first_rows import first_rows
from data_tools.reading.input_files import require_file
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import (
    Failure,
    iterate_rows,
    to_flags,
    to_interactions,
    to_strings,
    without_failures,
)
from data_tools.rejects import Reason, RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

FEEDBACK = ("click", "follow", "like", "share")
PROFILE = ("gender", "age")
_CATEGORY = "video_category"


class TenrecSource:
    """Reads the file.

    Raises:
        SourceError: the file or a column is missing.
    """

    def __init__(self, path: Path, feedback: str) -> None:
        self._path, self._feedback = require_file(path), feedback
        names = csv_columns(path)
        if missing := [name for name in ("user_id", "item_id", feedback) if name not in names]:
            raise SourceError(f"{path}: no column {', '.join(missing)}; it has {', '.join(names)}")
        self._profile = [name for name in PROFILE if name in names]
        self._has_category = _CATEGORY in names

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="QK-video.csv or similar")
        parser.add_argument(
            "--feedback", choices=FEEDBACK, default="click", help="feedback that counts as an interaction"
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, arguments.feedback)

    def options(self) -> dict[str, Any]:
        return {"feedback": self._feedback}

    def totals(self) -> Totals:
        return Totals(None, count_lines([self._path]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        """Yield the items that any user gave the feedback to, in order of appearance."""
        for batch in first_rows(self._positive(reject), "item_id"):
            for line, row in iterate_rows(batch):
                text = f"category {row[_CATEGORY]}" if self._has_category else ""
                yield Item(batch.file, line, row["item_id"], f"item {row['item_id']}", text, {}, image=None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in self._positive(ignore):
            rows = batch.rows.select(["user_id", "item_id"]).append_column("timestamp", batch.lines)
            yield to_interactions(batch._replace(rows=rows), ignore)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        if self._profile:
            for batch in first_rows(self._positive(ignore), "user_id"):
                yield batch._replace(rows=batch.rows.select(["user_id", *self._profile]))

    def _positive(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield the lines with the feedback."""
        for raw in read_csv(self._path, reject):
            batch = to_strings(to_strings(raw, "user_id", reject), "item_id", reject)
            feedback = batch.rows[self._feedback]
            positive = to_flags(feedback)
            unclear = Failure(Reason.BAD_LABEL, positive.is_null(), self._feedback, feedback, ", neither 1 nor 0")
            without_failures(batch, [unclear], reject)
            yield Batch(batch.file, batch.lines.filter(positive), batch.rows.filter(positive))
