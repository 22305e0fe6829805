"""Space-separated sequences of ids, the format of Amazon and other data in the code of S3-Rec, P5 and later models.

Beauty.txt: user item item …      a line for each user, oldest first, all separated by spaces

What the format leaves open: there are no times, so an item's timestamp is its position in the sequence, from 1 for the
oldest, and a split by time is meaningless. There are no texts; the items are those of the sequences, in order of first
appearance, and an item's title is its id, which is enough for models of ids. A user's second line is rejected.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.first_rows import first_rows
from data_tools.reading.input_files import require_file
from data_tools.reading.row_files import read_headless_rows
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import Batch, Item, Totals
from data_tools.sources.sequences import make_interactions, split_sequences, without_repeats


class SequencesTxtSource:
    """Reads the file.

    Raises:
        SourceError: the file is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = require_file(path)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        text = "file of lines `user item item …`, separated by spaces"
        parser.add_argument("--input", type=Path, required=True, metavar="FILE", help=text)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input)

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        return Totals(None, None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for batch in first_rows(self.interactions(ignore), "item_id"):
            for line, row in iterate_rows(batch):
                yield Item(batch.file, line, row["item_id"], row["item_id"], "", {}, image=None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        seen: set[str] = set()
        for raw in read_headless_rows(self._path, ["line"], reject):
            lines = pc.utf8_trim_whitespace(pc.replace_substring_regex(raw.rows["line"], r"\s+", " "))
            parts = [line.partition(" ") for line in lines.to_pylist()]
            columns = [pa.array([part[place] for part in parts], pa.string()) for place in (0, 2)]
            rows = pa.RecordBatch.from_arrays(columns, ["user_id", "items"])
            batch = without_repeats(to_strings(raw._replace(rows=rows), "user_id", reject), seen, reject)
            elements = split_sequences(batch.rows["items"])
            yield make_interactions(batch, elements, elements.position + 1)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())
