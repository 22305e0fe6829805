"""Text of the items: tokenised once by streaming the item shards, then read by index."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.bad_samples import Skipped
from transrec.data.batch import Chunk, ModalityContent
from transrec.data.item_shards import ItemShards
from transrec.data.shard_folder import ShardFolder

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


class TextStore:
    """Token ids of the items of a shard set; `text` says how the item encoder wants them.

    Items of `skipped` have the content of an empty text.
    """

    items_at_once = 4096

    def __init__(self, folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> None:
        self.text = text
        cached = tokenise(folder, text, cache, skipped)
        self._tokens = np.load(cached / "tokens.npy", mmap_mode="r")
        self._offsets = np.load(cached / "offsets.npy", mmap_mode="r")

    @staticmethod
    def is_filled(folder: ShardFolder, text: TextContent, cache: Path) -> bool:
        return _target(folder, text, cache, {}).exists()

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Every item has a text, if an empty one; a chunk holds texts of similar length."""
        lengths = self._offsets[items] - self._offsets[items - 1]
        rows = np.argsort(-lengths, kind="stable")
        runs = plan_chunks(lengths[rows], self.text.chunk_tokens)
        chunks = [self._chunk(items[rows[start:stop]]) for start, stop in runs]
        blank = {name: tensor[:1] for name, tensor in chunks[0].items()}
        return ModalityContent(torch.from_numpy(rows), chunks, blank, passes=len(chunks))

    def _chunk(self, items: NDArray[np.int64]) -> Chunk:
        starts, stops = self._offsets[items - 1], self._offsets[items]
        position = starts[:, None] + np.arange(int((stops - starts).max()))
        real = position < stops[:, None]
        tokens = np.where(real, self._tokens[np.where(real, position, 0)], self.text.pad_id)
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


def tokenise(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Folder with `tokens.npy` (int32, all items end to end) and `offsets.npy` (N + 1); made unless it is there."""
    target = _target(folder, text, cache, skipped)
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=cache))
    try:
        tokens, lengths = [], [0]
        items = iter(ItemShards(folder, skipped))
        while records := list(islice(items, _TOKENISE_AT_ONCE)):
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


def _target(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Named by a hash of the tokenizer, its settings, the item shards and what is left out: never a stale one."""
    parts = [text.key, *(file.sha256 for file in folder.index.of_kind("items")), *map(str, skipped)]
    return cache / f"tokens-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}"
