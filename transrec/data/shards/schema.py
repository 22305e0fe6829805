"""The one contract between the shard builder and training: the content of a folder of shards.

    index.json            written last; `ShardIndex` below
    items.parquet         the catalogue, one row per item in index order, and the random-access index of the item shards
    user_blocks.parquet   one row per block of users: its location and the lengths of its histories
    items-{000000}.tar    webdataset samples: `{index:09d}.json` (item_id, title, text, …) and `.jpg`
    users-{000000}.tar    webdataset samples: `{block:09d}.arrow`, an Arrow IPC stream with one record batch of users
    rejects.jsonl         rows that could not be used: file, line, reason

An item is identified by its index, 1..N in catalogue order; 0 is always padding. Users are sorted by a hash of their
id, so a prefix of the stream is a uniform sample and smaller prefixes nest in larger ones.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from transrec.errors import TransRecError

SCHEMA_VERSION = 3
_LONGEST_QUOTE = 200  # characters of a damaged file that a message repeats
INDEX_FILE = "index.json"
CATALOGUE_FILE = "items.parquet"
BLOCKS_FILE = "user_blocks.parquet"
REJECTS_FILE = "rejects.jsonl"
LOST_AND_FOUND = "lost+found"  # a folder at the root of a file system, which may be mounted for a set of shards
MAX_IMAGE_PIXELS = 64 * 2**20  # a larger image is refused before it is decoded

# Offsets and sizes locate the member's content inside the uncompressed tar, so `seek` and `read` suffice; the checksum
# covers the content, so it can be verified without reading the whole shard.
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
NULLABLE = ("image_offset", "image_bytes", "image_crc32")

BLOCKS_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("crc32", pa.uint32()),
        ("lengths", pa.list_(pa.int32())),  # interactions of each user in the block, in order
    ]
)

# Every user record batch starts with these columns; the source's user profile (age, …) follows as strings.
USER_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("timestamps", pa.list_(pa.int64())),  # seconds since 1970, ascending
        ("ratings", pa.list_(pa.float32())),  # null elements where the source has none
    ]
)


class ShardSetError(TransRecError, ValueError):
    """A folder without a complete, readable set of shards; the message names the file and the remedy."""


class Strict(BaseModel):
    """An immutable record of `index.json` that allows no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Strict):
    """One file of the set: `samples` counts items or users, `sha256` covers the whole file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # a file in the folder, never a path out of it
    kind: Literal["items", "users", "catalogue", "blocks", "rejects"]
    samples: int
    bytes: int = Field(ge=0)
    sha256: str


class Counts(Strict):
    """Totals of a set of shards."""

    users: int
    items: int
    interactions: int
    images: int
    rejects: dict[str, int]  # reason -> rows
    dropped: dict[str, int]  # filter -> interactions


class ShardIndex(Strict):
    """The content of `index.json`: how a set was built, its totals and its files."""

    schema_version: int
    build: dict[str, Any]  # source name and the options that determine the content; no paths, no times
    counts: Counts
    text_fields: list[str]
    user_columns: list[str]  # beyond USER_COLUMNS
    item_ids_sha256: str
    files: list[FileEntry]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def checksum(self) -> str:
        """SHA-256 of all other fields, which reveals damage anywhere in the index."""
        rest = self.model_dump(mode="json", exclude={"checksum"})
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path | str) -> "ShardIndex":
        """Read `folder/index.json`.

        Raises:
            ShardSetError: no index (the build did not finish), another schema version, or a malformed file.
        """
        path = Path(folder) / INDEX_FILE
        return cls.parse(read_index(path), str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> "ShardIndex":
        """The index in `data`, which came from `where`.

        Raises:
            ShardSetError: another schema version, or malformed data.
        """
        try:
            fields = json.loads(data)
            version, checksum = fields["schema_version"], fields.pop("checksum", None)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ShardSetError(f"{where} {_what_else_it_is(data, error)}") from None
        if version != SCHEMA_VERSION:
            raise ShardSetError(
                f"{where} has schema version {_shorten(version)}, this code reads {SCHEMA_VERSION}: rebuild the shards"
            )
        try:
            index = cls.model_validate(fields)
        except ValidationError as error:
            raise ShardSetError(f"{where} is malformed: {_first(error)}; rebuild the shards") from None
        if index.checksum != checksum:
            raise ShardSetError(
                f"{where} is damaged: its checksum does not match; copy it again, or rebuild the shards"
            )
        return index

    def of_kind(self, kind: str) -> list[FileEntry]:
        """The files of one kind."""
        return [file for file in self.files if file.kind == kind]


def read_index(path: Path) -> bytes:
    """The bytes of an `index.json`.

    Raises:
        ShardSetError: the file is missing.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardSetError(
            f"{path}: {error.strerror}. A complete set of shards has an index.json, written last: "
            "build it with `python -m data_tools build` (again, if the build was cut off)."
        ) from None


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False)[0]
    return f"`{_shorten('.'.join(map(str, found['loc'])))}`: {_shorten(found['msg'])}"


def _what_else_it_is(data: bytes, error: Exception) -> str:
    """What bytes are that are not an index: without their content, which may be long."""
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return (
            "is a web page, not an index: look at it in a browser; the server may ask for a login or not have the set"
        )
    if not data.strip(b"\0 \t\r\n"):
        return f"is empty ({len(data):,} bytes without content): copy the set again, or rebuild the shards"
    if isinstance(error, UnicodeDecodeError):
        return f"is not text: byte {error.start:,} is not UTF-8; copy the set again, or rebuild the shards"
    if isinstance(error, (json.JSONDecodeError, RecursionError)):
        return f"is not JSON ({_shorten(error)}); copy the set again, or rebuild the shards"
    return "is not the index of a set of shards: it has no `schema_version`; check the path"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def hash_item_ids(item_ids: Iterable[str]) -> str:
    """Identity of an item vocabulary: SHA-256 over the ids in index order, one per line."""
    digest = hashlib.sha256()
    for item_id in item_ids:
        digest.update(item_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def user_order_key(user_id: str) -> bytes:
    """Hash of a user id; users are written in ascending order of (this hash, user id)."""
    return hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest()
