"""The node-local item store: the content of every item that the item encoder reads, by index.

Each modality has its own store. The processes of a node fill it together from the item shards and map it into memory.
Cache entries are named by a hash of everything they depend on, so a stale entry is never found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import ItemContent, ModalityContent
from transrec.data.content.augmentation import augmented
from transrec.data.content.image_store import ImageStore
from transrec.data.content.text_store import TextStore
from transrec.data.shards.bad_samples import Samples, Skipped
from transrec.data.shards.shard_folder import ShardFolder

ITEMS_AT_ONCE = 4096  # unless a modality sets another number


class ModalityStore(Protocol):
    """The content of all items in one modality."""

    items_at_once: int  # most items whose content is held in memory together

    @property
    def key(self) -> str:
        """Hash of everything that the content depends on."""
        ...

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,) number of positions of each item's content, or 1 if all items have the same number; 0: no content."""
        ...

    def positions_in_pass(self, of_an_item: int) -> int:
        """Number of positions in one full encoder pass if every item has `of_an_item` positions."""
        ...

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content of the distinct catalogue indices `items`; rows are positions in `items`."""
        ...


STORES: dict[str, Any] = {"text": TextStore, "image": ImageStore}

# The item encoder's settings by modality, as `content()` of its configuration returns them.
Wanted = Mapping[str, Any]


class ItemStore:
    """Content of the items of a shard set in the `wanted` modalities.

    Items in `skipped` have no content.
    """

    def __init__(self, folder: ShardFolder, wanted: Wanted, cache: Path, skipped: Skipped | None = None) -> None:
        self.skipped, self.num_items = skipped or {}, folder.index.counts.items
        self._augmented = [modality for modality, how in wanted.items() if how.augment]
        self._stores: dict[str, ModalityStore] = {
            modality: STORES[modality](folder, how, cache.expanduser(), self.skipped)
            for modality, how in wanted.items()
        }

    @property
    def items_at_once(self) -> int:
        """The most items whose content is held in memory together."""
        return min([ITEMS_AT_ONCE, *(store.items_at_once for store in self._stores.values())])

    def of(self, modality: str) -> ModalityStore:
        """The store of a modality."""
        return self._stores[modality]

    def replace(self, modality: str, store: ModalityStore) -> None:
        """Use `store` for the content of `modality` from now on."""
        self._stores[modality] = store

    def content(self, items: NDArray[np.int64]) -> ItemContent:
        """Content of the distinct catalogue indices `items`; pool row u is `items[u]`."""
        modalities = {modality: store.content(items) for modality, store in self._stores.items()}
        return ItemContent(torch.from_numpy(items), modalities)

    def for_training(self, items: NDArray[np.int64], seed: int, step: int) -> ItemContent:
        """As `content`, augmented if the encoder wants it; the augmentation is a function of (seed, step, item)."""
        content = self.content(items)
        changed = {name: augmented(content.modalities[name], items, seed, step) for name in self._augmented}
        return replace(content, modalities=content.modalities | changed)


def unchecked(folder: ShardFolder, wanted: Wanted, cache: Path) -> Iterator[tuple[Samples, Sequence[int]]]:
    """The samples to check and their item numbers, for each modality; no numbers if this node has read them all."""
    for modality, how in wanted.items():
        samples = STORES[modality].samples(folder, how)
        filled = STORES[modality].is_filled(folder, how, cache.expanduser())
        yield samples, () if filled else samples.numbers
