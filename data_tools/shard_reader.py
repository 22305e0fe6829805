"""Reads a finished folder of shards: its tables and its blocks of users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from transrec.data.shards.schema import BLOCKS_FILE, CATALOGUE_FILE, CATALOGUE_SCHEMA, ShardIndex, ShardSetError
from transrec.files import parsed_json

_NONE = pa.array([], pa.int32())


class ShardFileError(ShardSetError):
    """A faulty file in a set of shards."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.file = file
        self.message = message


class UserBlock(NamedTuple):
    """A block of users and the shard it was read from."""

    shard: str
    lengths: pa.Int32Array  # interactions of each user, from the table of blocks
    shown_lengths: pa.Int32Array  # impressions of each user, from there; empty where the set has none
    users: pa.RecordBatch


def read_catalogue(folder: Path) -> pa.Table:
    """The catalogue, checked against its schema."""
    return _read_table(folder / CATALOGUE_FILE, CATALOGUE_SCHEMA)


def read_records(folder: Path, catalogue: pa.Table) -> Iterator[dict[str, str | None]]:
    """Yield the id and text fields of the items in `catalogue`, whole or in part, in its order.

    Raises:
        ShardFileError: a shard is missing, or a record is not at its offset.
    """
    shard, data = "", pa.py_buffer(b"")
    for rows in catalogue.select(["shard", "item_id", "json_offset", "json_bytes"]).to_batches():
        for row in rows.to_pylist():
            if row["shard"] != shard:
                shard = row["shard"]
                data = _map_file(folder / shard)
            yield _decode_record(data, row)


def read_block_table(folder: Path) -> pa.Table:
    """The table of blocks, checked against its schema; without `shown_lengths` in a set of version 3."""
    return _read_table(folder / BLOCKS_FILE, ShardIndex.load(folder).blocks_schema)


def read_blocks(folder: Path) -> Iterator[UserBlock]:
    """Yield the user blocks in order, each located by its row in the table of blocks.

    Raises:
        ShardFileError: a shard is missing, or a block is not at its offset in the table or not one record batch.
    """
    shard, data = "", pa.py_buffer(b"")
    for rows in read_block_table(folder).to_batches():
        places = rows.select(["shard", "offset", "bytes"]).to_pylist()
        for number, place in enumerate(places):
            if place["shard"] != shard:
                shard = place["shard"]
                data = _map_file(folder / shard)
            shown = rows["shown_lengths"][number].values if "shown_lengths" in rows.schema.names else _NONE
            yield UserBlock(shard, rows["lengths"][number].values, shown, _decode_block(data, place))


def _map_file(path: Path) -> pa.Buffer:
    try:
        return pa.memory_map(str(path)).read_buffer()
    except OSError as error:
        raise ShardFileError(path.name, str(error)) from None


def _decode_block(data: pa.Buffer, row: dict[str, Any]) -> pa.RecordBatch:
    try:
        with pa.ipc.open_stream(data.slice(row["offset"], row["bytes"])) as stream:
            [users] = stream
        users.validate(full=True)
    except (pa.ArrowException, ValueError, IndexError) as error:
        raise ShardFileError(row["shard"], f"no readable block at offset {row['offset']}: {error}") from None
    return users


def _decode_record(data: pa.Buffer, row: dict[str, Any]) -> dict[str, str | None]:
    try:
        record = parsed_json(data.slice(row["json_offset"], row["json_bytes"]).to_pybytes())
        if isinstance(record, dict) and all(isinstance(value, str | None) for value in record.values()):
            return record
        reason = "not a JSON object whose values are strings or null"
    except (ValueError, IndexError) as error:
        reason = str(error)
    raise ShardFileError(
        row["shard"], f"item {row['item_id']!r} cannot be read at offset {row['json_offset']}: {reason}"
    )


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ShardFileError(path.name, str(error)) from None
    if table.schema != schema:
        raise ShardFileError(path.name, f"its columns are {table.schema.names}, not {schema.names}, or of other types")
    if missing := [name for name in schema.names if table[name].null_count and not name.startswith("image_")]:
        raise ShardFileError(path.name, f"has rows without {missing[0]}")
    if outside := [name for name in table["shard"].unique().to_pylist() if Path(name).name != name]:
        raise ShardFileError(path.name, f"names {outside[0]!r}, which is not a file of the folder")
    return table
