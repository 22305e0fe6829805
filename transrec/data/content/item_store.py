"""The node-local item store: what the item encoder reads of every item, by index.

Each modality has a store of its own, filled once from the item shards by the first process of a node and mapped into
memory by the others. What lies in a cache is named by a hash of all it depends on, so a stale one is never found.
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

ITEMS_AT_ONCE = 4096  # of a modality that does not say otherwise


class ModalityStore(Protocol):
    items_at_once: int  # whose content is to be held in memory together

    @property
    def key(self) -> str:
        """Names what the content depends on."""
        ...

    def positions_in_pass(self, of_an_item: int) -> int:
        """Positions of one encoder pass, if every item has so many."""
        ...

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content of the distinct catalogue indices `items`; the rows are places in `items`."""
        ...


STORES: dict[str, Any] = {"text": TextStore, "image": ImageStore}

# By modality, how the item encoder wants it: what `content()` of its configuration returns.
Wanted = Mapping[str, Any]


class ItemStore:
    """Content of the items of a shard set in the modalities that are `wanted`.

    Items of `skipped` have no content.
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
        """Whose content is to be held in memory together."""
        return min([ITEMS_AT_ONCE, *(store.items_at_once for store in self._stores.values())])

    def of(self, modality: str) -> ModalityStore:
        return self._stores[modality]

    def replace(self, modality: str, store: ModalityStore) -> None:
        """From now on the content of `modality` is what `store` has."""
        self._stores[modality] = store

    def content(self, items: NDArray[np.int64]) -> ItemContent:
        """Content of the distinct catalogue indices `items`; pool row u is `items[u]`."""
        modalities = {modality: store.content(items) for modality, store in self._stores.items()}
        return ItemContent(torch.from_numpy(items), modalities)

    def for_training(self, items: NDArray[np.int64], seed: int, step: int) -> ItemContent:
        """As `content`, with what the encoder wants augmented: a function of (seed, step) and each item."""
        content = self.content(items)
        changed = {name: augmented(content.modalities[name], items, seed, step) for name in self._augmented}
        return replace(content, modalities=content.modalities | changed)


def unchecked(folder: ShardFolder, wanted: Wanted, cache: Path) -> Iterator[tuple[Samples, Sequence[int]]]:
    """By modality, what is read of the items, and of which: of none if all were read here before."""
    for modality, how in wanted.items():
        samples = STORES[modality].samples(folder, how)
        filled = STORES[modality].is_filled(folder, how, cache.expanduser())
        yield samples, () if filled else samples.numbers
