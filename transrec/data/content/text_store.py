"""Text of the items: tokenised once by streaming the item shards, then read by index."""

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content.filled_folder import filled_folder
from transrec.data.content.ragged import Ragged
from transrec.data.progress import progress
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder

_TOKENISE_AT_ONCE = 4096


class TextContent(Protocol):
    """The text settings of an item encoder, as `item_encoders.text` provides them."""

    chunk_tokens: int

    @property
    def key(self) -> str: ...

    @property
    def pad_id(self) -> int: ...

    def encode(self, records: Sequence[dict[str, Any]]) -> Sequence[list[int] | None]: ...  # None: no text


class TextStore:
    """Token ids of the items of a shard set, encoded with the settings in `text`.

    Items in `skipped` have the content of an empty text.
    """

    items_at_once = 4096

    def __init__(self, folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> None:
        self.text = text
        cached = tokenise(folder, text, cache, skipped)
        self.key = cached.name
        self._tokens = np.load(cached / "tokens.npy", mmap_mode="r")
        self._ragged = Ragged(np.load(cached / "offsets.npy", mmap_mode="r"))

    @staticmethod
    def is_filled(folder: ShardFolder, text: TextContent, cache: Path) -> bool:
        """Whether the node's cache already holds all token ids."""
        return _target(folder, text, cache, {}).exists()

    @staticmethod
    def samples(folder: ShardFolder, text: TextContent) -> ItemShards:
        """The records to check for unreadable samples."""
        return ItemShards(folder)

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content of the distinct catalogue indices `items`; a chunk holds texts of similar length."""
        rows, chunks = self._ragged.chunks(items, self.text.chunk_tokens)
        return modality_content(rows, [self._chunk(places, real) for places, real in chunks], self._blank)

    def positions_in_pass(self, of_an_item: int) -> int:
        """Positions of one encoder pass, the same for items of any length."""
        return self.text.chunk_tokens

    @property
    def _blank(self) -> Chunk:
        return {
            "input_ids": torch.full((1, 1), self.text.pad_id),
            "attention_mask": torch.ones(1, 1, dtype=torch.int64),
        }

    def _chunk(self, places: NDArray[np.int64], real: NDArray[np.bool_]) -> Chunk:
        tokens = np.where(real, self._tokens[places], self.text.pad_id)
        return {
            "input_ids": torch.from_numpy(tokens.astype(np.int64)),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }


def tokenise(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Folder with `tokens.npy` (int32, all items concatenated) and `offsets.npy` (N + 1); built if it is missing."""

    def fill(partial: Path) -> None:
        tokens, lengths = [], [0]
        shards = ItemShards(folder, skipped)
        items = iter(shards)
        with progress("tokenising", len(shards.numbers)) as advance:
            while records := list(islice(items, _TOKENISE_AT_ONCE)):
                # An encoder needs at least one token, even for an empty text.
                encoded = [[] if ids is None else ids or [text.pad_id] for ids in text.encode(records)]
                lengths += [len(ids) for ids in encoded]
                tokens.append(np.fromiter((t for ids in encoded for t in ids), np.int32))
                advance(len(records))
        np.save(partial / "tokens.npy", np.concatenate(tokens))
        np.save(partial / "offsets.npy", np.cumsum(lengths))

    return filled_folder(_target(folder, text, cache, skipped), fill)


def _target(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Cache folder named by a hash of tokenizer, settings, item shards and skipped items, so it is never stale."""
    parts = [text.key, *(file.sha256 for file in folder.index.of_kind("items")), *map(str, skipped)]
    return cache / f"tokens-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}"
