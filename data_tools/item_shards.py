"""Writes the items: assigns their indices, packs them with their images and collects the catalogue."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, tee
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from data_tools.executor import Executor
from data_tools.images import ImageError, Picture, load_picture
from data_tools.markup import clean_text
from data_tools.progress import Advance
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.shard_writer import ShardWriter
from data_tools.source import Item
from transrec.data.shards.schema import CATALOGUE_SCHEMA, FileEntry

_CHUNK_ITEMS = 16
_OWN_NAMES = ("item_id", "title", "text")  # of an item as it is written; a field of this name would replace them


@dataclass(frozen=True)
class LoadImages:
    """The task that loads the images of a chunk. It returns a picture or an error for each image; None stays None."""

    shorter_side: int | None

    def __call__(self, images: list[Path | bytes | None]) -> list[Picture | ImageError | None]:
        return [self._load(image) for image in images]

    def _load(self, image: Path | bytes | None) -> Picture | ImageError | None:
        try:
            return None if image is None else load_picture(image, self.shorter_side)
        except ImageError as error:
            return error


class ItemShards:
    """Takes items in source order; each usable item gets the next index, starting at 1.

    Markup is removed from their texts unless these are `raw`; `cleaned` counts the items by field. Use as a context
    manager; `entries` is complete when it exits.
    """

    def __init__(self, folder: Path, shard_bytes: int, raw: bool = False) -> None:
        self.images = 0
        self.cleaned: Counter[str] = Counter()
        self._raw = raw
        self._shards = ShardWriter(folder, "items", shard_bytes)
        self._first_lines: dict[str, int] = {}
        self._fields: dict[str, None] = {"title": None, "text": None}  # an ordered set
        self._columns: dict[str, list[Any]] = {name: [] for name in CATALOGUE_SCHEMA.names if name != "interactions"}

    @property
    def item_ids(self) -> list[str]:
        """Ids in index order, starting with index 1."""
        return self._columns["item_id"]

    @property
    def text_fields(self) -> list[str]:
        return list(self._fields)

    @property
    def entries(self) -> list[FileEntry]:
        return self._shards.entries

    def write(
        self,
        items: Iterator[Item],
        load: LoadImages,
        executor: Executor,
        advance: Advance,
        reject: RejectSink,
        reject_image: RejectSink,
    ) -> None:
        """Write the usable items, each with its image if that is usable.

        Items are read ahead of their images, so items and images have separate sinks for rejects.
        """
        chunks, again = tee(_cut_chunks(self._usable(items, reject)))
        images_of_chunk = executor.map(load, ([item.image for item in chunk] for chunk in chunks))
        for images, chunk in zip(images_of_chunk, again, strict=True):
            for item, image in zip(chunk, images, strict=True):
                fault = image.remark if isinstance(image, Picture) else image
                if fault is not None:
                    reject_image(Reject(item.file, item.line, fault.reason, fault.detail))
                self._write(item, image.jpeg if isinstance(image, Picture) else None)
            advance(len(chunk))

    def catalogue(self, interactions: np.ndarray) -> pa.Table:
        """The catalogue, given the number of interactions of each item in index order."""
        return (
            pa.table({**self._columns, "interactions": interactions})
            .select(CATALOGUE_SCHEMA.names)
            .cast(CATALOGUE_SCHEMA)
        )

    def _usable(self, items: Iterator[Item], reject: RejectSink) -> Iterator[Item]:
        for given in map(_without_own_names, items):
            clean = given if self._raw else _without_markup(given)
            item = _with_text_fallback(clean)
            if item.item_id in self._first_lines:
                detail = f"item {item.item_id!r} is already on line {self._first_lines[item.item_id]}"
                reject(Reject(item.file, item.line, Reason.DUPLICATE_ITEM, detail))
            elif not item.title:
                detail = f"item {item.item_id!r} has neither title nor text"
                reject(Reject(item.file, item.line, Reason.NO_TEXT, detail))
            else:
                self._first_lines[item.item_id] = item.line
                self.cleaned.update(_differing(given, clean))
                yield item

    def _write(self, item: Item, jpeg: bytes | None) -> None:
        self._fields.update(dict.fromkeys(item.fields))
        index = len(self.item_ids) + 1
        content = {"item_id": item.item_id, "title": item.title, "text": item.text, **item.fields}
        members = [(f"{index:09d}.json", json.dumps(content, ensure_ascii=False).encode())]
        if jpeg is not None:
            members.append((f"{index:09d}.jpg", jpeg))
            self.images += 1
        json_placed, *images = self._shards.write(members)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.__exit__(kind, error, trace)


def _without_own_names(item: Item) -> Item:
    return replace(item, fields={name: value for name, value in item.fields.items() if name not in _OWN_NAMES})


def _without_markup(item: Item) -> Item:
    fields = {name: clean_text(value) for name, value in item.fields.items()}
    return replace(item, title=clean_text(item.title), text=clean_text(item.text), fields=fields)


def _differing(one: Item, other: Item) -> list[str]:
    before, after = ({"title": item.title, "text": item.text, **item.fields} for item in (one, other))
    return [name for name, value in before.items() if value != after[name]]


def _with_text_fallback(item: Item) -> Item:
    """Strip title and text; if one is empty, use the other for both."""
    title, text = item.title.strip(), item.text.strip()
    return replace(item, title=title or text, text=text or title)


def _cut_chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    while chunk := list(islice(items, _CHUNK_ITEMS)):
        yield chunk
