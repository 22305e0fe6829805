"""The one contract between the shard builder and training: what lies in a folder of shards.

    index.json            written last; `ShardIndex` below
    items.parquet         the catalogue, one row per item in index order, and the random-access index of the item shards
    user_blocks.parquet   one row per block of users: where it lies, how long its histories are
    items-{000000}.tar    webdataset samples: `{index:09d}.json` (item_id, title, text, …) and `.jpg`
    users-{000000}.tar    webdataset samples: `{block:09d}.arrow`, an Arrow IPC stream with one record batch of users
    rejects.jsonl         rows that could not be used: file, line, reason

An item is named by its index, 1..N in catalogue order; 0 is padding everywhere. Users lie in the order of a hash of
their id, so a prefix of the stream is a uniform sample and smaller prefixes nest in larger ones.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from transrec.errors import TransRecError

SCHEMA_VERSION = 3
INDEX_FILE = "index.json"
CATALOGUE_FILE = "items.parquet"
BLOCKS_FILE = "user_blocks.parquet"
REJECTS_FILE = "rejects.jsonl"

# Offsets and sizes are those of the member's content inside the uncompressed tar, so `seek` and `read` suffice; the
# checksum is that of the content, so what is read can be trusted without reading the whole shard.
CATALOGUE_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("interactions", pa.int64()),
        ("shard", pa.string()),
        ("json_offset", pa.int64()),
        ("json_bytes", pa.int64()),
        ("json_crc32", pa.uint32()),
        ("image_offset", pa.int64()),  # null: no image
        ("image_bytes", pa.int64()),
        ("image_crc32", pa.uint32()),
    ]
)

BLOCKS_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("crc32", pa.uint32()),
        ("lengths", pa.list_(pa.int32())),  # interactions of each user in the block, in order
    ]
)

# Every user record batch starts with these columns; what the source knows of users (age, …) follows as strings.
USER_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("timestamps", pa.list_(pa.int64())),  # seconds since 1970, ascending
        ("ratings", pa.list_(pa.float32())),  # null elements where the source has none
    ]
)


class ShardSetError(TransRecError, ValueError):
    """A folder that is not a complete, readable set of shards; the message names the file and the remedy."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Strict):
    """One file of the set: `samples` are items or users; `sha256` is of the whole file."""

    name: str
    kind: Literal["items", "users", "catalogue", "blocks", "rejects"]
    samples: int
    bytes: int
    sha256: str


class Counts(Strict):
    users: int
    items: int
    interactions: int
    images: int
    rejects: dict[str, int]  # reason -> rows
    dropped: dict[str, int]  # filter -> interactions


class ShardIndex(Strict):
    schema_version: int
    build: dict[str, Any]  # source name and the options that determine the content; no paths, no times
    counts: Counts
    text_fields: list[str]
    user_columns: list[str]  # beyond USER_COLUMNS
    item_ids_sha256: str
    files: list[FileEntry]

    @classmethod
    def load(cls, folder: Path | str) -> "ShardIndex":
        """Read `folder/index.json`.

        Raises:
            ShardSetError: no index (the build did not finish), another schema version, or a malformed file.
        """
        path = Path(folder) / INDEX_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ShardSetError(
                f"{path}: {error.strerror}. A complete set of shards has an index.json, written last: "
                "build it with `python -m data_tools build` (again, if the build was cut off)."
            ) from None
        try:
            index = cls.model_validate_json(text)
        except ValidationError as error:
            raise ShardSetError(f"{path} is malformed: {error.errors()[0]['msg']}; rebuild the shards") from None
        if index.schema_version != SCHEMA_VERSION:
            raise ShardSetError(
                f"{path} has schema version {index.schema_version}, this code reads {SCHEMA_VERSION}: rebuild"
            )
        return index

    def of_kind(self, kind: str) -> list[FileEntry]:
        return [file for file in self.files if file.kind == kind]


def hash_item_ids(item_ids: Iterable[str]) -> str:
    """Identity of an item vocabulary: SHA-256 over the ids in index order, one per line."""
    digest = hashlib.sha256()
    for item_id in item_ids:
        digest.update(item_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def user_order_key(user_id: str) -> bytes:
    """Users are written in ascending order of (this hash, user id)."""
    return hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest()
