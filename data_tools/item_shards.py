"""Writes the items: gives them their indices, checks and packs them, and keeps what the catalogue needs."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa

from data_tools.images import ImageError, load_jpeg
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.shard_writer import ShardWriter
from data_tools.sources.source import Item
from transrec.data.schema import CATALOGUE_SCHEMA


class ItemShards:
    """Takes items in source order; each that can be used gets the next index from 1 on."""

    def __init__(self, writer: ShardWriter, reject: RejectSink) -> None:
        self.images = 0
        self._writer, self._reject = writer, reject
        self._first_lines: dict[str, int] = {}
        self._fields: dict[str, None] = {"title": None, "text": None}  # an ordered set
        self._columns: dict[str, list] = {name: [] for name in CATALOGUE_SCHEMA.names if name != "interactions"}

    @property
    def item_ids(self) -> list[str]:
        """Ids in index order: that of index 1 comes first."""
        return self._columns["item_id"]

    @property
    def text_fields(self) -> list[str]:
        return list(self._fields)

    def add(self, item: Item) -> None:
        """Write the item, with its image where it has a usable one, or reject it."""
        item = _with_text_fallback(item)
        if item.item_id in self._first_lines:
            detail = f"item {item.item_id!r} is already on line {self._first_lines[item.item_id]}"
            self._reject(Reject(item.file, item.line, Reason.DUPLICATE_ITEM, detail))
        elif not item.title:
            detail = f"item {item.item_id!r} has neither title nor text"
            self._reject(Reject(item.file, item.line, Reason.NO_TEXT, detail))
        else:
            self._write(item)

    def catalogue(self, interactions: np.ndarray) -> pa.Table:
        """The catalogue, given the number of interactions of each item in index order."""
        return (
            pa.table({**self._columns, "interactions": interactions})
            .select(CATALOGUE_SCHEMA.names)
            .cast(CATALOGUE_SCHEMA)
        )

    def _write(self, item: Item) -> None:
        self._first_lines[item.item_id] = item.line
        self._fields.update(dict.fromkeys(item.fields))
        index = len(self._first_lines)
        content = {"item_id": item.item_id, "title": item.title, "text": item.text, **item.fields}
        members = [(f"{index:09d}.json", json.dumps(content, ensure_ascii=False).encode())]
        if (jpeg := self._load_image(item)) is not None:
            members.append((f"{index:09d}.jpg", jpeg))
            self.images += 1
        json_placed, *images = self._writer.write(members)
        image = images[0] if images else None
        row = {
            "index": index,
            "item_id": item.item_id,
            "title": item.title,
            "shard": json_placed.shard,
            "json_offset": json_placed.offset,
            "json_bytes": json_placed.size,
            "json_crc32": json_placed.crc32,
            "image_offset": image.offset if image else None,
            "image_bytes": image.size if image else None,
            "image_crc32": image.crc32 if image else None,
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def _load_image(self, item: Item) -> bytes | None:
        if item.image is None:
            return None
        try:
            return load_jpeg(item.image)
        except ImageError as error:
            self._reject(Reject(item.file, item.line, error.reason, error.detail))
            return None


def _with_text_fallback(item: Item) -> Item:
    """Strip title and text; an empty one takes the other's place."""
    title, text = item.title.strip(), item.text.strip()
    return replace(item, title=title or text, text=text or title)
