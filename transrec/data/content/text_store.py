"""Text of the items: tokenised once by streaming the item shards, then read by index."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content.filled_folder import filled_folder, intact
from transrec.data.content.ragged import Ragged
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder
from transrec.work import PARTS_FOLDER, Advance, PartWriter, part_sizes

ITEMS_OF_A_PART = 16384
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
        with intact(cached):
            self._tokens = np.load(cached / "tokens.npy", mmap_mode="r")
            self._offsets = np.load(cached / "offsets.npy", mmap_mode="r")
            if len(self._tokens) != self._offsets[-1]:
                raise ValueError(f"{len(self._tokens):,} tokens instead of {self._offsets[-1]:,}")
        self._ragged = Ragged(self._offsets)

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
        """Number of positions in one full encoder pass, the same for items of any length."""
        return self.text.chunk_tokens

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,) number of tokens of each item."""
        found: NDArray[np.int64] = np.diff(self._offsets)
        return found

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


class _Tokenising:
    """Writes the tokens of each part, and the number of tokens of its items, to files of their own."""

    name, unit = "tokenising", "items"

    def __init__(self, shards: ItemShards, text: TextContent) -> None:
        self._shards, self._text = shards, text
        self.sizes = part_sizes(len(shards.numbers), ITEMS_OF_A_PART)
        self.total_bytes = shards.total_bytes  # a token takes four bytes here, and about four letters in the shards

    def begin(self, folder: Path) -> None: ...

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        items = self._shards.numbers[part * ITEMS_OF_A_PART :][: self.sizes[part]]
        with out.file(_tokens_of(part)) as write_tokens, out.file(_lengths_of(part)) as write_lengths:
            for start in range(0, len(items), _TOKENISE_AT_ONCE):
                records = [self._shards.read(item) for item in items[start : start + _TOKENISE_AT_ONCE]]
                # An encoder needs at least one token, even for an empty text.
                encoded = [[] if ids is None else ids or [self._text.pad_id] for ids in self._text.encode(records)]
                write_tokens(np.fromiter((t for ids in encoded for t in ids), np.int32).data)
                write_lengths(np.array([len(ids) for ids in encoded], np.int64).data)
                advance(len(records))

    def finish(self, folder: Path) -> None:
        lengths = [np.fromfile(folder / _lengths_of(part), np.int64) for part in range(len(self.sizes))]
        offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))
        np.save(folder / "offsets.npy", offsets)
        with (folder / "tokens.npy").open("wb") as file:
            header = {"descr": "<i4", "fortran_order": False, "shape": (int(offsets[-1]),)}
            write_array_header_1_0(file, header)
            for part in range(len(self.sizes)):
                with (folder / _tokens_of(part)).open("rb") as tokens:
                    shutil.copyfileobj(tokens, file)


def _tokens_of(part: int) -> str:
    return f"{PARTS_FOLDER}/{part:06d}.tokens"


def _lengths_of(part: int) -> str:
    return f"{PARTS_FOLDER}/{part:06d}.lengths"


def tokenise(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Folder with `tokens.npy` (int32, all items concatenated) and `offsets.npy` (N + 1); built if it is missing."""
    target = _target(folder, text, cache, skipped)
    return filled_folder(target, lambda: _Tokenising(ItemShards(folder, skipped), text))


def _target(folder: ShardFolder, text: TextContent, cache: Path, skipped: Skipped) -> Path:
    """Cache folder named by a hash of tokenizer, settings, item shards and skipped items, so it is never stale."""
    parts = [text.key, *(file.sha256 for file in folder.index.of_kind("items")), *map(str, skipped)]
    return cache / f"tokens-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}"
