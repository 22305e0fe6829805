"""The one contract between the shard builder and training: the content of a folder of shards.

    index.json            written last; `ShardIndex` below
    items.parquet         the catalogue, one row per item in index order, and the random-access index of the item shards
    user_blocks.parquet   one row per block of users: its location, and its users' numbers of interactions, impressions
    items-{000000}.tar    webdataset samples: `{index:09d}.json` (item_id, title, text, …) and `.jpg`
    users-{000000}.tar    webdataset samples: `{block:09d}.arrow`, an Arrow IPC stream with one record batch of users
    rejects.jsonl         rows that could not be used: file, line, reason
    README.md             a card for people, not listed in index.json; older sets have none

An item is identified by its index, 1..N in catalogue order; 0 is always padding. Users are sorted by a hash of their
id, so a prefix of the stream is a uniform sample and smaller prefixes nest in larger ones.

Sets of version 3, the last one without impressions (what users were shown, and whether they clicked), can also be read.

Designs considered for impressions. Shards of their own: two readers, and a join with the users while training. A row
per impression with a copy of the history: a request that shows 37 items copies the history 37 times, and its length is
fixed when the shards are built. Chosen: lists beside the history in the user's record, which is stored once.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from transrec.errors import TransRecError
from transrec.files import parsed_json

SCHEMA_VERSION = 4
_WITHOUT_IMPRESSIONS = 3  # a version that can also be read
_LONGEST_QUOTE = 200  # characters of a damaged file that a message repeats
INDEX_FILE = "index.json"
CATALOGUE_FILE = "items.parquet"
BLOCKS_FILE = "user_blocks.parquet"
REJECTS_FILE = "rejects.jsonl"
CARD_FILE = "README.md"
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
        ("shown_lengths", pa.list_(pa.int32())),  # impressions of each user; empty where the set has none
    ]
)

# Every user record batch starts with these columns. In a set with impressions, those of `impression_columns` follow,
# then the source's user profile (age, …) as strings.
USER_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("timestamps", pa.list_(pa.int64())),  # seconds since 1970, ascending
        ("ratings", pa.list_(pa.float32())),  # null elements where the source has none
    ]
)
LABEL_PREFIX, CONTEXT_PREFIX = "label_", "shown_"


def impression_columns(heads: Sequence[str], context: Sequence[str]) -> pa.Schema:
    """The columns of a user record batch for impressions with these heads and context columns; empty without heads."""
    if not heads:
        return pa.schema([])
    return pa.schema(
        [
            ("shown", pa.list_(pa.int32())),
            ("shown_timestamps", pa.list_(pa.int64())),  # seconds since 1970, ascending
            ("shown_requests", pa.list_(pa.int32())),  # equal numbers were shown together
            *[(LABEL_PREFIX + head, pa.list_(pa.float32())) for head in heads],  # 0 or 1; null: not observed
            *[(CONTEXT_PREFIX + column, pa.list_(pa.string())) for column in context],  # null: unknown
        ]
    )


def user_schema(heads: Sequence[str], context: Sequence[str], profile: Sequence[str]) -> pa.Schema:
    """The columns of a user record batch with impressions of these heads, if any, and these profile columns."""
    return pa.schema([*USER_COLUMNS, *impression_columns(heads, context), *[(name, pa.string()) for name in profile]])


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
    impressions: int
    images: int
    rejects: dict[str, int]  # reason -> rows
    dropped: dict[str, int]  # filter -> interactions; `FILTER (impressions)` -> impressions
    cleaned: dict[str, int] = {}  # text field -> items that markup was removed from; older sets lack this count


class ShardIndex(Strict):
    """The content of `index.json`: how a set was built, its totals and its files."""

    schema_version: int
    build: dict[str, Any]  # source name and the options that determine the content; no paths, no times
    counts: Counts
    text_fields: list[str]
    heads: list[str]  # that impressions are labelled with: click, …; none: the set records no impressions
    context_columns: list[str]  # of impressions: position, …
    user_columns: list[str]  # of the users' profiles
    item_ids_sha256: str
    files: list[FileEntry]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def checksum(self) -> str:
        """SHA-256 of all other fields, which reveals damage anywhere in the index."""
        return _checksum(self.model_dump(mode="json", exclude={"checksum"}))

    @property
    def user_schema(self) -> pa.Schema:
        """The columns of every user record batch."""
        return user_schema(self.heads, self.context_columns, self.user_columns)

    @property
    def blocks_schema(self) -> pa.Schema:
        """The columns of `user_blocks.parquet`."""
        if self.schema_version == _WITHOUT_IMPRESSIONS:
            return BLOCKS_SCHEMA.remove(BLOCKS_SCHEMA.get_field_index("shown_lengths"))
        return BLOCKS_SCHEMA

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
            fields = parsed_json(data)
            version, checksum = fields["schema_version"], fields.pop("checksum", None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardSetError(f"{where} {_what_else_it_is(data, error)}") from None
        if version not in (_WITHOUT_IMPRESSIONS, SCHEMA_VERSION):
            raise ShardSetError(
                f"{where} has schema version {_shorten(version)}, but this code reads {_WITHOUT_IMPRESSIONS} and "
                f"{SCHEMA_VERSION}: rebuild the shards"
            )
        expected = _checksum(fields)  # before fields are added
        try:
            index = cls.model_validate(_with_no_impressions(fields) if version == _WITHOUT_IMPRESSIONS else fields)
        except ValidationError as error:
            raise ShardSetError(f"{where} is malformed: {_first(error)}; rebuild the shards") from None
        if expected != checksum:
            raise ShardSetError(
                f"{where} is damaged: its checksum does not match; copy it again, or rebuild the shards"
            )
        return index

    def of_kind(self, kind: str) -> list[FileEntry]:
        """The files of one kind."""
        return [file for file in self.files if file.kind == kind]


def fault_of_items(items: pa.ListArray, n_items: int) -> str | None:
    """The fault in lists of item indices, or None."""
    bounds = pc.min_max(items.flatten()).as_py()
    if bounds["min"] is not None and not 1 <= bounds["min"] <= bounds["max"] <= n_items:
        return f"it has items {bounds['min']} to {bounds['max']}, not 1 to {n_items}"
    return None


def fault_of_impressions(users: pa.RecordBatch, index: ShardIndex) -> str | None:
    """The fault in the impressions of a batch of `index.user_schema`, or None."""
    names = impression_columns(index.heads, index.context_columns).names
    if not names:
        return None
    shown, times, requests = (users[name] for name in names[:3])
    complete = (*(users[name] for name in names), shown.flatten(), times.flatten(), requests.flatten())
    if any(column.null_count for column in complete):
        return "it has impressions without an item, a time or a request"
    for name in names:
        if not users[name].value_lengths().equals(shown.value_lengths()):
            return f"it has different numbers of shown and {name}"
    if fault := fault_of_items(shown, index.counts.items):
        return fault
    for head in index.heads:
        label = users[LABEL_PREFIX + head].flatten()
        valid = pc.or_(pc.equal(label, 0), pc.equal(label, 1))
        if not pc.all(valid, min_count=0).as_py():  # passes over nulls
            return f"it has values of {LABEL_PREFIX}{head} other than 0, 1 and null"
    same_user = np.diff(times.value_parent_indices().to_numpy()) == 0
    if np.any((np.diff(times.flatten().to_numpy()) < 0) & same_user):
        return "it has shown_timestamps that are not in ascending order"
    return None


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


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _with_no_impressions(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an index of version 3, with those that version 4 added."""
    counts = fields.get("counts")
    added = {"counts": {**counts, "impressions": 0}} if isinstance(counts, dict) else {}
    return {**fields, **added, "heads": [], "context_columns": []}


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False)[0]
    return f"`{_shorten('.'.join(map(str, found['loc'])))}`: {_shorten(found['msg'])}"


def _what_else_it_is(data: bytes, error: Exception) -> str:
    """A description of bytes that are not an index; it does not quote them, because they may be long."""
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return (
            "is a web page, not an index: open it in a browser; the server may require a login, or may not have the set"
        )
    if not data.strip(b"\0 \t\r\n"):
        return f"is empty ({len(data):,} bytes without content): copy the set again, or rebuild the shards"
    if isinstance(error, UnicodeDecodeError):
        return f"is not text: byte {error.start:,} is not UTF-8; copy the set again, or rebuild the shards"
    if isinstance(error, ValueError):
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
