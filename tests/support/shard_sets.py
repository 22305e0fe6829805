"""Sets of shards that someone made bad on purpose: changed, with an index that agrees with the change."""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change `index.json` and let its checksum agree."""
    index = json.loads((folder / "index.json").read_text())
    edit(index)
    index.pop("checksum", None)
    checksum = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index | {"checksum": checksum}))


def make_version_3(folder: Path) -> None:
    """Make a set without impressions what it was before there were any."""
    table = pq.read_table(folder / "user_blocks.parquet")
    pq.write_table(table.drop_columns("shown_lengths"), folder / "user_blocks.parquet")
    seal(folder, "user_blocks.parquet")

    def edit(index: dict[str, Any]) -> None:
        index["schema_version"] = 3
        del index["counts"]["impressions"], index["heads"], index["context_columns"]

    edit_index(folder, edit)


def replace_block(folder: Path, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> None:
    """Change the first block of a set of a single shard of users, and let tables and index agree."""
    row = pq.read_table(folder / "user_blocks.parquet").to_pylist()[0]
    path = folder / row["shard"]
    data = path.read_bytes()
    [block] = pa.ipc.open_stream(data[row["offset"] :][: row["bytes"]])
    sink = pa.BufferOutputStream()
    changed = change(block)
    with pa.ipc.new_stream(sink, changed.schema) as stream:
        stream.write_batch(changed)
    content = sink.getvalue().to_pybytes()
    path.write_bytes(data + content)
    table = pq.read_table(folder / "user_blocks.parquet")
    for name, value in (("offset", len(data)), ("bytes", len(content)), ("crc32", zlib.crc32(content))):
        place = table.schema.get_field_index(name)
        values = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(place), values)
    pq.write_table(table, folder / "user_blocks.parquet")
    seal(folder, path.name)
    seal(folder, "user_blocks.parquet")


def seal(folder: Path, name: str) -> None:
    """Make the index agree with the file's present bytes."""
    data = (folder / name).read_bytes()

    def edit(index: dict[str, Any]) -> None:
        [entry] = [file for file in index["files"] if file["name"] == name]
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    edit_index(folder, edit)
