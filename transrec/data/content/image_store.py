"""Images of the items, decoded for each batch that needs them, or once into the node's cache.

Designs considered. Decoding at each use needs no disk, but takes 0.3 ms for a poster and 5 ms for a photo, for each
distinct item of every batch. Small compressed pictures still have to be decoded. Chosen as the default: raw pixels
mapped into memory, because a batch then costs one copy. They take 3·size² bytes per item, 150 GB for a million items at
224, so `decoded_cache` can be turned off.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content.filled_folder import filled_folder, intact
from transrec.data.content.images import DECODER
from transrec.data.shards.bad_samples import Skipped
from transrec.data.shards.item_shards import ItemImages
from transrec.data.shards.shard_folder import ShardFolder
from transrec.work import Advance, PartWriter, part_sizes

ITEMS_OF_A_PART = 4096
_DECODE_AT_ONCE = 1024


class ImageContent(Protocol):
    """The image settings of an item encoder, as `item_encoders.image` provides them."""

    chunk_images: int
    decoded_cache: bool

    @property
    def size(self) -> int: ...


class ImageStore:
    """Pixels, uint8 (n, 3, size, size), of the items of a shard set that have an image and are not in `skipped`."""

    items_at_once = 256

    def __init__(self, folder: ShardFolder, image: ImageContent, cache: Path, skipped: Skipped) -> None:
        self._chunk_images = image.chunk_images
        self._images = ItemImages(folder, image.size, skipped)
        self.key = _target(folder, image.size, cache, skipped).name
        self._pixels: NDArray[np.uint8] | None = None
        if image.decoded_cache:
            decoded = decode_all(self._images, _target(folder, image.size, cache, skipped))
            with intact(decoded):
                self._pixels = np.load(decoded / "pixels.npy", mmap_mode="r")
            self._row = np.cumsum(self._images.present) - 1

    @staticmethod
    def is_filled(folder: ShardFolder, image: ImageContent, cache: Path) -> bool:
        """Whether the node's cache already holds all decoded images."""
        return image.decoded_cache and _target(folder, image.size, cache, {}).exists()

    @staticmethod
    def samples(folder: ShardFolder, image: ImageContent) -> ItemImages:
        """The images to check for unreadable samples."""
        return ItemImages(folder, image.size)

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content of the distinct catalogue indices `items`; the rows are the items with an image, in order."""
        rows = np.flatnonzero(self._images.present[items - 1])
        starts = range(0, len(rows), self._chunk_images)
        chunks = [self._chunk(items[rows[start : start + self._chunk_images]]) for start in starts]
        blank = {"pixel_values": torch.zeros(1, 3, self._images.size, self._images.size, dtype=torch.uint8)}
        return modality_content(rows, chunks, blank)

    def positions_in_pass(self, of_an_item: int) -> int:
        """Number of positions in one full encoder pass if every item has `of_an_item` positions."""
        return self._chunk_images * of_an_item

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,) 1 for each item with an image, 0 for the others."""
        return self._images.present.astype(np.int64)

    def _chunk(self, items: NDArray[np.int64]) -> Chunk:
        if self._pixels is None:
            pixels = np.stack([self._images.read(item) for item in items.tolist()])
        else:
            pixels = self._pixels[self._row[items - 1]]
        return {"pixel_values": torch.from_numpy(pixels)}


def decode_all(images: ItemImages, target: Path) -> Path:
    """Folder with `pixels.npy`, uint8 (M, 3, size, size), of the M items with an image in order; built if missing."""
    return filled_folder(target, lambda: _Decoding(images))


class _Decoding:
    """Writes the pixels of each part to its place in `pixels.npy`.

    They are written, not mapped: if the disk is full, a map kills the process, whereas a write raises an error.
    """

    name, unit = "decoding", "items"

    def __init__(self, images: ItemImages) -> None:
        self._images, self._numbers = images, images.numbers
        self.sizes = part_sizes(len(self._numbers), ITEMS_OF_A_PART)
        shape = (len(self._numbers), 3, images.size, images.size)
        header = BytesIO()
        write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._header = header.getvalue()
        self.total_bytes = len(self._header) + math.prod(shape)

    def begin(self, folder: Path) -> None:
        with (folder / "pixels.npy").open("wb") as file:
            file.write(self._header)
            file.truncate(self.total_bytes)

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        first = part * ITEMS_OF_A_PART
        place = len(self._header) + first * 3 * self._images.size**2
        numbers = self._numbers[first : first + self.sizes[part]]
        with out.at("pixels.npy", place) as write, ThreadPoolExecutor() as threads:
            for start in range(0, len(numbers), _DECODE_AT_ONCE):
                for pixels in threads.map(self._images.read, numbers[start : start + _DECODE_AT_ONCE]):
                    write(pixels.data)
                    advance(1)

    def finish(self, folder: Path) -> None: ...


def _target(folder: ShardFolder, size: int, cache: Path, skipped: Skipped) -> Path:
    """Cache folder named by a hash of decoder, size, item shards and skipped items, so it is never stale."""
    parts = [DECODER, str(size), *(file.sha256 for file in folder.index.of_kind("items")), *map(str, skipped)]
    return cache / f"pixels-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}"
