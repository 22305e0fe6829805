"""The records of items, read from where the catalogue says they lie: nothing in a tar is parsed or extracted."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from transrec.data.bad_samples import BadSample, Skipped
from transrec.data.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA, ShardSetError
from transrec.data.shard_folder import ShardFolder, UnreadableError

_COLUMNS = ["index", "shard", "json_offset", "json_bytes", "json_crc32"]


class ItemShards:
    """The items 1..N of a set; those of `skipped` have empty texts."""

    def __init__(self, folder: ShardFolder, skipped: Skipped | None = None) -> None:
        self.folder, self.skipped = folder, skipped or {}
        table = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, _COLUMNS)
        if not np.array_equal(table["index"], np.arange(1, folder.index.counts.items + 1)):
            raise ShardSetError(
                f"{folder.locate(CATALOGUE_FILE)}: its items are not 1 to {folder.index.counts.items}; "
                "rebuild the shards"
            )
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self._shard = shards.indices.to_numpy()
        self._offset, self._bytes, self._crc32 = (table[name].to_numpy() for name in _COLUMNS[2:])

    @property
    def numbers(self) -> range:
        return range(1, len(self._shard) + 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records in index order: shard after shard, front to back."""
        return map(self.read, self.numbers)

    def read(self, item: int) -> dict[str, Any]:
        """The record of an item: its id and its text fields.

        Raises:
            BadSample: it cannot be read, or it is not an object of texts.
        """
        if item in self.skipped:
            return {"item_id": "", **dict.fromkeys(self.folder.index.text_fields, "")}
        row = item - 1
        try:
            content = self.folder.read(
                self._names[self._shard[row]], int(self._offset[row]), int(self._bytes[row]), int(self._crc32[row])
            )
            record = json.loads(content)
        except UnreadableError as error:
            raise self.bad(item, error.reason) from None
        except (ValueError, RecursionError) as error:
            raise self.bad(item, f"no JSON: {error}") from None
        if not isinstance(record, dict) or not all(isinstance(value, str | None) for value in record.values()):
            raise self.bad(item, "not an object of texts")
        return record

    def bad(self, item: int, reason: str) -> BadSample:
        return BadSample(self.folder, self._names[self._shard[item - 1]], f"item {item}", reason)
