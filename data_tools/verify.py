"""Re-reads a folder of shards and compares everything with `index.json`.

Sizes and hashes come first. The content is compared only if they all agree, so any fault found after that comes
from the build, not from the disk.
"""

import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow.compute as pc

from data_tools.progress import step
from data_tools.shard_reader import ShardFileError, UserBlock, read_block_table, read_blocks, read_catalogue
from data_tools.shard_writer import hash_file
from transrec.data.shards.schema import (
    BLOCKS_FILE,
    CARD_FILE,
    CATALOGUE_FILE,
    INDEX_FILE,
    LOST_AND_FOUND,
    REJECTS_FILE,
    FileEntry,
    ShardIndex,
    fault_of_impressions,
    fault_of_items,
    hash_item_ids,
    user_order_key,
)
from transrec.files import parsed_json

END = tarfile.NUL * tarfile.BLOCKSIZE
ITEM_MEMBER = re.compile(r"\d{9}\.(json|jpg)")
USER_MEMBER = re.compile(r"\d{9}\.arrow")


class Member(NamedTuple):
    """The place of a tar member's content, and its checksum."""

    offset: int
    size: int
    crc32: int


class Problem(NamedTuple):
    """A fault that verification found in a file."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


def verify(folder: Path) -> list[Problem]:
    """All faults of the shards in `folder`; empty if there are none.

    Raises:
        ShardSetError: there is no readable `index.json` to compare with.
    """
    index = ShardIndex.load(folder)
    problems = list(_check_files(folder, index))
    if problems:
        return problems
    try:
        problems += _check_items(folder, index)
        problems += _check_users(folder, index)
        problems += _check_rejects(folder, index)
    except ShardFileError as error:
        problems.append(Problem(error.file, error.message))
    return problems


def _check_files(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    listed = {file.name for file in index.files}
    for name in sorted({path.name for path in folder.iterdir()} - listed - {INDEX_FILE, CARD_FILE, LOST_AND_FOUND}):
        yield Problem(name, f"is not in {INDEX_FILE}")
    for name in (CATALOGUE_FILE, BLOCKS_FILE, REJECTS_FILE):
        if name not in listed:
            yield Problem(INDEX_FILE, f"does not list {name}")
    with step("hashes", sum(file.bytes for file in index.files)) as advance:
        for file in index.files:
            if problem := _check_file(folder / file.name, file):
                yield problem
            advance(file.bytes)


def _check_file(path: Path, entry: FileEntry) -> Problem | None:
    if not path.is_file():
        return Problem(entry.name, "is missing")
    size = path.stat().st_size
    if size != entry.bytes:
        return Problem(entry.name, f"has {size} bytes, but {INDEX_FILE} lists {entry.bytes}")
    found = hash_file(path)
    if found != entry.sha256:
        return Problem(entry.name, f"has SHA-256 {found[:12]}…, but {INDEX_FILE} lists {entry.sha256[:12]}…")
    return None


def _check_items(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    catalogue = read_catalogue(folder)
    item_ids = catalogue["item_id"].to_pylist()
    if catalogue["index"].to_pylist() != list(range(1, len(item_ids) + 1)):
        yield Problem(CATALOGUE_FILE, "item indices are not 1, 2, 3, …")
    yield from _compare(CATALOGUE_FILE, "items", len(item_ids), index.counts.items)
    yield from _compare(CATALOGUE_FILE, "item id hash", hash_item_ids(item_ids), index.item_ids_sha256)
    images = len(item_ids) - catalogue["image_offset"].null_count
    yield from _compare(CATALOGUE_FILE, "images", images, index.counts.images)
    rows_of_shard: dict[str, list[dict[str, Any]]] = {}
    for row in catalogue.to_pylist():
        rows_of_shard.setdefault(row["shard"], []).append(row)
    with step("item shards", len(item_ids)) as advance:
        for entry in index.of_kind("items"):
            rows = rows_of_shard.pop(entry.name, [])
            yield from _check_item_shard(folder, entry, rows, index.text_fields)
            advance(len(rows))
    for shard in rows_of_shard:
        yield Problem(CATALOGUE_FILE, f"has items in {shard}, which {INDEX_FILE} does not list")


def _check_item_shard(
    folder: Path, entry: FileEntry, rows: list[dict[str, Any]], text_fields: list[str]
) -> Iterator[Problem]:
    expected = {}
    for row in rows:
        expected[f"{row['index']:09d}.json"] = Member(row["json_offset"], row["json_bytes"], row["json_crc32"])
        if row["image_offset"] is not None:
            expected[f"{row['index']:09d}.jpg"] = Member(row["image_offset"], row["image_bytes"], row["image_crc32"])
    members = _tar_members(folder / entry.name, ITEM_MEMBER)
    samples = sum(name.endswith(".json") for name in members)
    yield from _compare(entry.name, "samples", samples, entry.samples)
    if members != expected:
        yield Problem(entry.name, f"the positions or contents of its members differ from {CATALOGUE_FILE}")
        return
    with (folder / entry.name).open("rb") as file:
        for row in rows:
            file.seek(row["json_offset"])
            content = _parse_object(file.read(row["json_bytes"]))
            if content.get("item_id") != row["item_id"] or content.get("title") != row["title"]:
                yield Problem(entry.name, f"item {row['index']} is not {row['item_id']!r} or has another title")
            elif unknown := set(content) - {"item_id", *text_fields}:
                yield Problem(entry.name, f"item {row['index']} has fields that are not listed: {sorted(unknown)}")


def _check_users(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    misplaced = list(_check_user_shards(folder, index))
    yield from misplaced
    if misplaced:
        return
    counts = np.zeros(index.counts.items + 1, np.int64)
    users, shown, last_key = 0, 0, (b"", "")
    with step("user blocks", index.counts.users) as advance:
        for block in read_blocks(folder):
            if block.users.schema != index.user_schema:
                yield Problem(block.shard, f"columns are {block.users.schema.names}, not {index.user_schema.names}")
                return
            faults = list(_block_faults(block, index))
            yield from (Problem(block.shard, message) for message in faults)
            if faults:
                return
            keys = [(user_order_key(user_id), user_id) for user_id in block.users["user_id"].to_pylist()]
            if any(later <= earlier for earlier, later in zip([last_key, *keys], keys, strict=False)):
                yield Problem(block.shard, "users are not in the order of their hash")
            items = block.users["items"].flatten().to_numpy()
            np.add.at(counts, items[(items >= 1) & (items < len(counts))].astype(np.int64), 1)
            users, shown, last_key = users + len(keys), shown + sum(block.shown_lengths.to_pylist()), keys[-1]
            advance(len(keys))
    yield from _compare(BLOCKS_FILE, "users", users, index.counts.users)
    yield from _compare(BLOCKS_FILE, "interactions", int(counts.sum()), index.counts.interactions)
    yield from _compare(BLOCKS_FILE, "impressions", shown, index.counts.impressions)
    if not np.array_equal(counts[1:], read_catalogue(folder)["interactions"].to_numpy()):
        yield Problem(CATALOGUE_FILE, "interactions per item differ from the user shards")


def _check_user_shards(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    """Problems where the tars do not hold exactly the blocks listed in the table, at the listed offsets."""
    expected: dict[str, dict[str, Member]] = {}
    users: Counter[str] = Counter()
    table = read_block_table(folder)
    block_users = table["lengths"].combine_chunks().value_lengths().to_pylist()
    for number, row in enumerate(table.select(["shard", "offset", "bytes", "crc32"]).to_pylist()):
        expected.setdefault(row["shard"], {})[f"{number:09d}.arrow"] = Member(row["offset"], row["bytes"], row["crc32"])
        users[row["shard"]] += block_users[number]
    for entry in index.of_kind("users"):
        yield from _compare(entry.name, "samples", users[entry.name], entry.samples)
        if _tar_members(folder / entry.name, USER_MEMBER) != expected.pop(entry.name, {}):
            yield Problem(entry.name, f"the positions or contents of its members differ from {BLOCKS_FILE}")
    for shard in expected:
        yield Problem(BLOCKS_FILE, f"has blocks in {shard}, which {INDEX_FILE} does not list")


def _block_faults(block: UserBlock, index: ShardIndex) -> Iterator[str]:
    users = block.users
    if not len(users) or any(users[name].null_count for name in ("user_id", "items", "timestamps")):
        yield "a block has no users, or users without an id or interactions"
        return
    where = f"block of user {users['user_id'][0].as_py()!r}"
    lengths = {"items": block.lengths, "timestamps": block.lengths, "ratings": block.lengths}
    if index.heads:
        lengths["shown"] = block.shown_lengths
    for name, expected in lengths.items():
        if users[name].value_lengths() != expected:
            yield f"{where}: the lengths of {name} differ from {BLOCKS_FILE}"
            return
    rows = pc.add(block.lengths, block.shown_lengths) if index.heads else block.lengths
    if not pc.all(pc.greater(rows, 0)).as_py():
        yield f"{where} has a user without interactions{' and impressions' if index.heads else ''}"
    times = users["timestamps"].flatten().to_numpy()
    user = users["timestamps"].value_parent_indices().to_numpy()
    if np.any((np.diff(times) < 0) & (np.diff(user) == 0)):
        yield f"{where} has timestamps that are not in ascending order"
    for fault in (fault_of_items(users["items"], index.counts.items), fault_of_impressions(users, index)):
        if fault is not None:
            yield f"{where}: {fault}"


def _check_rejects(folder: Path, index: ShardIndex) -> Iterator[Problem]:
    with (folder / REJECTS_FILE).open("rb") as file:
        found = dict(Counter(str(_parse_object(line).get("reason")) for line in file))
    yield from _compare(REJECTS_FILE, "rejects", found, index.counts.rejects)


def _compare(file: str, what: str, found: object, expected: object) -> Iterator[Problem]:
    if found != expected:
        yield Problem(file, f"{what}: found {found}, but {INDEX_FILE} lists {expected}")


def _tar_members(path: Path, names: re.Pattern[str]) -> dict[str, Member]:
    """Member name -> place of its content.

    The headers are parsed here because `tarfile` would follow extended and sparse ones, which a shard does not have.

    Raises:
        ShardFileError: not a tar, or a member that does not belong in a shard: a link, a device, a path, an extended
            header, another kind of content, a repeated name.
    """
    members: dict[str, Member] = {}
    try:
        with path.open("rb") as shard:
            while (header := shard.read(tarfile.BLOCKSIZE)) != END:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                if info.type != tarfile.REGTYPE or not names.fullmatch(info.name) or info.name in members:
                    raise ShardFileError(path.name, f"member {info.name!r} does not belong in a shard")
                members[info.name] = _read_member(shard, info)
            if any(shard.read()):
                raise ShardFileError(path.name, "data follows the end of the tar")
    except (tarfile.TarError, OSError) as error:
        raise ShardFileError(path.name, f"not a readable tar: {error}") from None
    return members


def _read_member(shard: BinaryIO, info: tarfile.TarInfo) -> Member:
    offset = shard.tell()
    if not 0 <= info.size <= os.fstat(shard.fileno()).st_size - offset:
        raise tarfile.TarError(f"member {info.name!r} is longer than the file")
    content = shard.read(info.size)
    shard.seek(-info.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
    return Member(offset, info.size, zlib.crc32(content))


def _parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, or an empty one if there is none."""
    try:
        value = parsed_json(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
