"""The node-local item store: content of every item, filled once by streaming the item shards, then read by index."""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

os.environ.setdefault("WDS_SECURE", "1")  # no pickles and no shell commands out of shards; read at webdataset's import
import webdataset

from transrec.data.batch import ItemContent, TokenChunk
from transrec.data.schema import ShardIndex, ShardSetError

_TOKENISE_AT_ONCE = 4096
# A chunk takes no item shorter than this share of its longest one: bounds the work spent on padding to 1 - share.
_SHORTEST_IN_CHUNK = 0.8


class TextContent(Protocol):
    """How an item encoder wants text: what `item_encoders.text` offers."""

    chunk_tokens: int

    @property
    def key(self) -> str: ...

    @property
    def pad_id(self) -> int: ...

    def encode(self, records: Sequence[dict[str, Any]]) -> list[list[int]]: ...


class ItemStore:
    """Content of the items of a shard set; `text` says how the item encoder wants its text, if it wants any."""

    def __init__(self, folder: Path, text: TextContent | None, cache: Path) -> None:
        self.text = text
        self._tokens = self._offsets = np.zeros(0, np.int32)
        if text is not None:
            cached = tokenise(folder, text, cache.expanduser())
            self._tokens = np.load(cached / "tokens.npy", mmap_mode="r")
            self._offsets = np.load(cached / "offsets.npy", mmap_mode="r")

    def content(self, items: NDArray[np.int64], chunks: int = 1) -> ItemContent:
        """Content of the distinct catalogue indices `items`, in an order that makes chunks contiguous."""
        if self.text is None:
            return ItemContent(items=torch.from_numpy(items), chunks=chunks)
        lengths = self._offsets[items] - self._offsets[items - 1]
        by_length = np.argsort(-lengths, kind="stable")
        items, lengths = items[by_length], lengths[by_length]
        text = [self._chunk(items[a:b], self.text.pad_id) for a, b in plan_chunks(lengths, self.text.chunk_tokens)]
        return ItemContent(items=torch.from_numpy(items), text=text, chunks=max(chunks, len(text)))

    def _chunk(self, items: NDArray[np.int64], pad_id: int) -> TokenChunk:
        starts, stops = self._offsets[items - 1], self._offsets[items]
        position = starts[:, None] + np.arange(int((stops - starts).max()))
        real = position < stops[:, None]
        tokens = np.where(real, self._tokens[np.where(real, position, 0)], pad_id)
        return {
            "input_ids": torch.from_numpy(tokens.astype(np.int64)),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }


def plan_chunks(lengths: NDArray[np.int64], chunk_tokens: int) -> list[tuple[int, int]]:
    """Cut items sorted by falling length into runs of at most `chunk_tokens` tokens, padding included."""
    runs, start = [], 0
    while start < len(lengths):
        longest = int(lengths[start])
        similar = int(np.searchsorted(-lengths, -_SHORTEST_IN_CHUNK * longest, side="right"))
        stop = min(similar, start + max(1, chunk_tokens // longest))
        runs.append((start, stop))
        start = stop
    return runs


def tokenise(folder: Path, text: TextContent, cache: Path) -> Path:
    """Folder with `tokens.npy` (int32, all items end to end) and `offsets.npy` (N + 1); made unless it is there.

    The name is a hash of the tokenizer, its settings and the item shards, so a stale cache is never read.
    """
    index = ShardIndex.load(folder)
    parts = [text.key, *(file.sha256 for file in index.of_kind("items"))]
    target = cache / f"tokens-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=cache))
    try:
        tokens, lengths = [], [0]
        for records in _batched_records(folder, index):
            encoded = [ids or [text.pad_id] for ids in text.encode(records)]  # an encoder needs something
            lengths += [len(ids) for ids in encoded]
            tokens.append(np.fromiter((t for ids in encoded for t in ids), np.int32))
        np.save(partial / "tokens.npy", np.concatenate(tokens))
        np.save(partial / "offsets.npy", np.cumsum(lengths))
        partial.chmod(0o755)  # shared by all users of the node
        partial.rename(target)
    except OSError:
        if not target.exists():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_records(folder: Path, index: ShardIndex) -> Iterator[dict[str, Any]]:
    """The text fields of every item, in index order, streamed from the item shards."""
    urls = [str(folder / file.name) for file in index.of_kind("items")]
    expected = 1
    samples = webdataset.WebDataset(
        urls, shardshuffle=False, nodesplitter=_every_shard, workersplitter=_every_shard, empty_check=False
    )
    try:
        for sample in samples:
            if int(sample["__key__"]) != expected:
                raise ShardSetError(f"{sample['__url__']}: item {expected} is missing; rebuild the shards")
            expected += 1
            yield json.loads(sample["json"])
    except (OSError, tarfile.TarError) as error:
        raise ShardSetError(
            f"{folder}: an item shard cannot be read ({error}); "
            f"check the set with `python -m data_tools verify {folder}`"
        ) from None
    if expected != index.counts.items + 1:
        raise ShardSetError(f"{folder}: {expected - 1} of {index.counts.items} items found; rebuild the shards")


def _every_shard(urls: Iterator[Any]) -> Iterator[Any]:
    """Whoever fills the store of a node reads all shards, whatever the rank."""
    return urls


def _batched_records(folder: Path, index: ShardIndex) -> Iterator[Sequence[dict[str, Any]]]:
    pending: list[dict[str, Any]] = []
    for record in read_records(folder, index):
        pending.append(record)
        if len(pending) == _TOKENISE_AT_ONCE:
            yield pending
            pending = []
    if pending:
        yield pending
