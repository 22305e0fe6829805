"""Converts rows with the project's own columns (item_id, title, text, image and any others) to items."""

from collections.abc import Iterator

from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink
from data_tools.sources.source import Batch, Item


def to_items(raw: Batch, images: ImageFolder, reject: RejectSink) -> Iterator[Item]:
    """Convert rows to items, other columns to fields; rows without id and images outside the folder are rejected."""
    batch = to_strings(raw, "item_id", reject)
    for line, row in iterate_rows(batch):
        yield Item(
            file=batch.file,
            line=line,
            item_id=row.pop("item_id"),
            title=row.pop("title", ""),
            text=row.pop("text", ""),
            image=images.locate(row.pop("image", ""), batch.file, line, reject),
            fields=row,
        )
