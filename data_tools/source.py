"""The interface that a raw format implements to be built into shards.

To add a format, write a class with the methods of `Source`, or of `ImpressionSource` if it knows what users were shown,
in a file of its own and name it in `SOURCES`. A row that cannot be used goes to the `reject` callable and is left out;
a source raises `SourceError` only if it cannot be read at all. Ids, texts and columns are taken from the data
unchanged. The builder handles deduplication, unknown items, text fallback, images and ordering in the same way for
every source.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import pyarrow as pa

from data_tools.errors import DataToolsError
from data_tools.rejects import RejectSink

INTERACTION_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),  # seconds since 1970
        ("rating", pa.float32()),  # null where unknown
    ]
)

# What users were shown, and whether they clicked. After these columns come one or more columns of labels,
# `label_<head>` (float32: 0, 1, or null where it was not observed), then any columns of context, `shown_<column>`
# (string, null: unknown).
IMPRESSION_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),  # seconds since 1970
        ("request_id", pa.string()),  # equal for what was shown together; null: what was shown at the same time
    ]
)


class SourceError(DataToolsError):
    """Raw data that cannot be read as this format at all: a missing file or column, a broken header."""


class Batch(NamedTuple):
    """Rows of one file; `lines` holds the line number of each row (see `Reject.line`)."""

    file: str
    lines: pa.Int64Array
    rows: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Item:
    """An item as read from the source; `title` or `text` may be empty, and `fields` holds the other columns.

    The builder leaves out fields called item_id, title or text. `image` is the file of the image, or its bytes.
    """

    file: str
    line: int
    item_id: str
    title: str
    text: str
    fields: dict[str, str]
    image: Path | bytes | None


class Totals(NamedTuple):
    """Expected numbers of rows, for progress bars; None if counting would take as long as reading."""

    items: int | None
    interactions: int | None
    impressions: int | None = None


class Source(Protocol):
    """A raw data set that can be built into shards."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command line options of this source."""

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self: ...

    def options(self) -> dict[str, Any]:
        """The options that determine the content, for `index.json`: no paths, no times."""

    def totals(self) -> Totals: ...

    def items(self, reject: RejectSink) -> Iterator[Item]:
        """Yield the items in the order of their indices."""

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield batches of `INTERACTION_COLUMNS`, in any order; rows with equal times keep their order."""

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield batches of `user_id` and other columns, all strings and the same in each batch, or no batch."""


@runtime_checkable
class ImpressionSource(Source, Protocol):
    """A source that may also know what its users were shown."""

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        """Yield batches of `IMPRESSION_COLUMNS` and label and context columns, the same in each batch, or no batch.

        They come in any order; rows with equal times keep their order. A click is not also an interaction, unless
        `interactions` yields it as well.
        """
