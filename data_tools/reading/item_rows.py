"""Converts rows with the project's own columns (item_id, title, text, image and any others) to items.

`image` is the name of a file or, in Parquet, the image itself: bytes, or a struct of `bytes` and `path`, of which the
first that is not empty counts (as Hugging Face's data sets store images).
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data_tools.reading.column_texts import is_bytes
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.typed_columns import iterate_rows, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item

BYTES_READ = frozenset({"item_id", "title", "text", "image"})  # columns of items that are read even if they are bytes


def to_items(raw: Batch, images: ImageFolder, reject: RejectSink) -> Iterator[Item]:
    """Convert rows to items, other columns to fields; rows without id and images outside the folder are rejected."""
    raw, pictures = _take_pictures(raw)
    batch = to_strings(raw, "item_id", reject)
    for line, row in iterate_rows(batch):
        name = row.pop("image", "")
        yield Item(
            file=batch.file,
            line=line,
            item_id=row.pop("item_id"),
            title=row.pop("title", ""),
            text=row.pop("text", ""),
            image=pictures.get(line) or images.locate(name, batch.file, line, reject),
            fields=row,
        )


def _take_pictures(raw: Batch) -> tuple[Batch, dict[int, bytes]]:
    """The rows with only names of files in `image`, and the images that the column holds, by line."""
    position = raw.rows.schema.get_field_index("image")
    if position < 0:
        return raw, {}
    kind = raw.rows.schema.field(position).type
    if is_bytes(kind):
        cells: list[Any] = [{"bytes": value} for value in raw.rows.column(position).to_pylist()]
    elif pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        cells = raw.rows.column(position).to_pylist()
    else:
        return raw, {}
    named = [None if cell is None or cell["bytes"] else cell.get("path") for cell in cells]
    rows = raw.rows.set_column(position, "image", pa.array(named, pa.string()))
    lines = raw.lines.to_pylist()
    pictures = {line: cell["bytes"] for line, cell in zip(lines, cells, strict=True) if cell and cell["bytes"]}
    return raw._replace(rows=rows), pictures
