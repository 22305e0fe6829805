"""Rows in the project's own columns as items: item_id, title, text, image, whatever else there is."""

from collections.abc import Iterator

from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink
from data_tools.sources.source import Batch, Item


def to_items(raw: Batch, images: ImageFolder, reject: RejectSink) -> Iterator[Item]:
    """Further columns are the item's fields; a row without id, or with an image outside the folder is told."""
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
