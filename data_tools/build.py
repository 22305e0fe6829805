"""Builds a folder of shards from a source: items, then interactions, then users, `index.json` last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from data_tools.errors import DataToolsError
from data_tools.interactions import ItemIndexer
from data_tools.item_shards import ItemShards
from data_tools.partition import UserBlocks, group_by_user
from data_tools.profiles import Profiles
from data_tools.progress import step
from data_tools.rejects import RejectLog
from data_tools.shard_writer import ShardWriter, describe_file
from data_tools.sources.source import Source
from transrec.data.schema import (
    BLOCKS_FILE,
    BLOCKS_SCHEMA,
    CATALOGUE_FILE,
    INDEX_FILE,
    REJECTS_FILE,
    SCHEMA_VERSION,
    Counts,
    FileEntry,
    ShardIndex,
    hash_item_ids,
)

BLOCK_USERS = 256
DEFAULT_SHARD_BYTES = 128 * 2**20


def build(
    source: Source, name: str, output: Path, shard_bytes: int = DEFAULT_SHARD_BYTES, strict: bool = False
) -> ShardIndex:
    """Write `source`, called `name`, as shards into the new folder `output`.

    Works in `<output>.partial`, which a failed build leaves behind and the next one removes; `output` appears
    complete or not at all.

    Raises:
        DataToolsError: the output exists, nothing in the source is usable, or with `strict` one row is not.
    """
    with _new_folder(output) as folder:
        with RejectLog(folder / REJECTS_FILE, strict) as reject:
            items, item_files = _write_items(source, folder, shard_bytes, reject)
            indexer = ItemIndexer(items.item_ids, reject)
            grouped = _group_interactions(source, indexer, reject)
            profiles = Profiles(source.users(reject), reject)
            blocks, user_files = _write_users(grouped, profiles, folder, shard_bytes)
        catalogue = items.catalogue(indexer.counts)
        index = ShardIndex(
            schema_version=SCHEMA_VERSION,
            build={"source": name, "shard_bytes": shard_bytes, **source.options()},
            counts=Counts(
                users=grouped.users,
                items=len(items.item_ids),
                interactions=int(indexer.counts.sum()),
                images=items.images,
                rejects=dict(sorted(reject.counts.items())),
            ),
            text_fields=items.text_fields,
            user_columns=profiles.columns,
            item_ids_sha256=hash_item_ids(items.item_ids),
            files=[
                *item_files,
                *user_files,
                _write_parquet(catalogue, folder / CATALOGUE_FILE, "catalogue", samples=len(catalogue)),
                _write_parquet(blocks, folder / BLOCKS_FILE, "blocks", samples=grouped.users),
                describe_file(folder / REJECTS_FILE, "rejects", samples=reject.counts.total()),
            ],
        )
        _write_index(index, folder / INDEX_FILE)
    return index


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Give `<output>.partial`, empty; move it to `output` once the `with` is left without an error."""
    if (output / INDEX_FILE).exists():
        raise DataToolsError(f"{output} already holds a set of shards: choose another --output or delete it")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataToolsError(f"{output} exists and is not an empty folder: choose another --output")
    partial = output.with_name(output.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    _sync_folder(partial)
    partial.rename(output)
    _sync_folder(output.parent)


def _write_items(
    source: Source, folder: Path, shard_bytes: int, reject: RejectLog
) -> tuple[ItemShards, list[FileEntry]]:
    with ShardWriter(folder, "items", shard_bytes) as writer, step("items", source.totals().items) as advance:
        items = ItemShards(writer, reject)
        for item in source.items(reject):
            items.add(item)
            advance(1)
    if not items.item_ids:
        raise DataToolsError(f"no usable item: see {reject.path}")
    return items, writer.entries


def _group_interactions(source: Source, indexer: ItemIndexer, reject: RejectLog) -> UserBlocks:
    with step("interactions", source.totals().interactions) as advance:

        def read() -> Iterator[pa.RecordBatch]:
            for batch in indexer.index(source.interactions(reject)):
                yield batch
                advance(len(batch))

        grouped = group_by_user(read(), BLOCK_USERS)
    if not grouped.users:
        raise DataToolsError(f"no usable interaction: see {reject.path}")
    return grouped


def _write_users(
    grouped: UserBlocks, profiles: Profiles, folder: Path, shard_bytes: int
) -> tuple[pa.Table, list[FileEntry]]:
    """Write the user shards; give the table of blocks and the shards' entries."""
    rows = []
    with ShardWriter(folder, "users", shard_bytes) as writer, step("users", grouped.users) as advance:
        for number, users in enumerate(grouped.blocks):
            block = profiles.join(users)
            [placed] = writer.write([(f"{number:09d}.arrow", _to_ipc_stream(block))], samples=len(block))
            lengths = block["items"].value_lengths().to_pylist()
            rows.append(
                {
                    "shard": placed.shard,
                    "offset": placed.offset,
                    "bytes": placed.size,
                    "crc32": placed.crc32,
                    "lengths": lengths,
                }
            )
            advance(len(block))
    return pa.Table.from_pylist(rows, BLOCKS_SCHEMA), writer.entries


def _to_ipc_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _write_parquet(table: pa.Table, path: Path, kind: Literal["catalogue", "blocks"], samples: int) -> FileEntry:
    pq.write_table(table, path, compression="zstd")
    return describe_file(path, kind, samples)


def _write_index(index: ShardIndex, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(index.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
