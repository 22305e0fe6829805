"""The records and images of items, read at the offsets in the catalogue; tar files are not parsed."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transrec.data.content.images import ImageError, decode
from transrec.data.shards.bad_samples import BadSample, Skipped
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA, ShardSetError
from transrec.data.shards.shard_folder import ShardFolder, UnreadableError
from transrec.files import parsed_json


class ItemMembers:
    """One file of each item's sample, `json` or `image`, by its column prefix in the catalogue."""

    def __init__(self, folder: ShardFolder, prefix: str) -> None:
        self.folder = folder
        place = [f"{prefix}_{name}" for name in ("offset", "bytes", "crc32")]
        table = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["index", "shard", *place])
        if not np.array_equal(table["index"], np.arange(1, folder.index.counts.items + 1)):
            raise ShardSetError(
                f"{folder.locate(CATALOGUE_FILE)}: its items are not numbered 1 to {folder.index.counts.items}; "
                "rebuild the shards"
            )
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self._shard = shards.indices.to_numpy()
        self.present: NDArray[np.bool_] = table[place[0]].is_valid().to_numpy()
        self._offset, self._bytes, self._crc32 = (table[name].fill_null(0).to_numpy() for name in place)

    @property
    def total_bytes(self) -> int:
        """The bytes of all items' files."""
        return int(self._bytes.sum())

    def read(self, item: int) -> bytes:
        """The file's bytes for an item.

        Raises:
            BadSample: the file cannot be read.
        """
        row = item - 1
        try:
            return self.folder.read(
                self._names[self._shard[row]], int(self._offset[row]), int(self._bytes[row]), int(self._crc32[row])
            )
        except UnreadableError as error:
            raise self.bad(item, error.reason) from None

    def bad(self, item: int, reason: str) -> BadSample:
        """The error for an unreadable item."""
        return BadSample(self.folder, self._names[self._shard[item - 1]], f"item {item}", reason)


class ItemShards:
    """The records of items 1..N of a set; items in `skipped` have empty texts."""

    def __init__(self, folder: ShardFolder, skipped: Skipped | None = None) -> None:
        self.folder, self.skipped = folder, skipped or {}
        self._members = ItemMembers(folder, "json")

    @property
    def numbers(self) -> range:
        """All items."""
        return range(1, len(self._members.present) + 1)

    @property
    def total_bytes(self) -> int:
        """The bytes of all records."""
        return self._members.total_bytes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records in index order, shard by shard."""
        return map(self.read, self.numbers)

    def read(self, item: int) -> dict[str, Any]:
        """The record of an item: its id and its text fields.

        Raises:
            BadSample: the record cannot be read, or is not a JSON object whose values are strings or null.
        """
        if item in self.skipped:
            return {"item_id": "", **dict.fromkeys(self.folder.index.text_fields, "")}
        content = self._members.read(item)
        try:
            record = parsed_json(content)
        except ValueError as error:
            raise self.bad(item, f"not JSON: {error}") from None
        if not isinstance(record, dict) or not all(isinstance(value, str | None) for value in record.values()):
            raise self.bad(item, "not a JSON object whose values are strings or null")
        return record

    def bad(self, item: int, reason: str) -> BadSample:
        return self._members.bad(item, reason)


class ItemImages:
    """The images of a set, `size` pixels square; items in `skipped` have none."""

    def __init__(self, folder: ShardFolder, size: int, skipped: Skipped | None = None) -> None:
        self.size = size
        self._members = ItemMembers(folder, "image")
        self.present = self._members.present.copy()  # item i at position i - 1
        self.present[[item - 1 for item in skipped or ()]] = False

    @property
    def numbers(self) -> list[int]:
        """The items that have an image."""
        return (1 + np.flatnonzero(self.present)).tolist()

    def read(self, item: int) -> NDArray[np.uint8]:
        """Pixels (3, size, size) of an item that has an image.

        Raises:
            BadSample: the image cannot be read or decoded.
        """
        try:
            return decode(self._members.read(item), self.size)
        except ImageError as error:
            raise self.bad(item, f"its image: {error}") from None

    def bad(self, item: int, reason: str) -> BadSample:
        return self._members.bad(item, reason)


def content_hashes(folder: ShardFolder) -> list[str]:
    """SHA-256 of each item's record and image, in index order; empty for an item that cannot be read."""
    records, images = ItemMembers(folder, "json"), ItemMembers(folder, "image")
    found = []
    for item, has_image in enumerate(images.present, start=1):
        try:
            record, image = records.read(item), images.read(item) if has_image else b""
        except BadSample:
            found.append("")
            continue
        digest = hashlib.sha256(len(record).to_bytes(8))
        digest.update(record)
        digest.update(image)
        found.append(digest.hexdigest())
    return found
