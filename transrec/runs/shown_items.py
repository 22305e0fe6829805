"""The items whose vectors trackers show after training, with titles and other short texts to colour them by."""

import numpy as np
from torch import nn

from transrec.data.content.item_store import ItemStore
from transrec.data.shards.bad_samples import BadSample
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.distributed.world import World
from transrec.evaluation.evaluator import encode_items, inference
from transrec.training.trackers import TrackerConfig
from transrec.training.trackers.tensorboard_log import TensorBoardConfig
from transrec.training.trackers.tracker import ShownItems

_LONG = ("title", "text")  # fields that are not categories; the title is shown by itself


def most_shown(trackers: list[TrackerConfig]) -> int:
    """The largest number of items that a tracker shows."""
    return max((tracker.items for tracker in trackers if isinstance(tracker, TensorBoardConfig)), default=0)


def shown_items(model: nn.Module, store: ItemStore, folder: ShardFolder, most: int, world: World) -> ShownItems | None:
    """The `most` items with the most interactions, with their vectors; None for `most` 0.

    Every rank must call it; only the main process reads their texts.
    """
    if most == 0:
        return None
    catalogue = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title", "interactions"])
    items = np.argsort(-catalogue["interactions"].to_numpy(), kind="stable")[:most] + 1
    with inference(model):
        vectors = encode_items(model, store, items, world)  # type: ignore[arg-type]  # a Model
    if not world.is_main:
        return None
    shown = catalogue.take(items - 1)
    columns = {name: [str(value) for value in shown[name].to_pylist()] for name in catalogue.column_names}
    return ShownItems(vectors, columns | _categories(folder, items.tolist()))


def _categories(folder: ShardFolder, items: list[int]) -> dict[str, list[str]]:
    names = [name for name in folder.index.text_fields if name not in _LONG]
    records = ItemShards(folder)
    found: dict[str, list[str]] = {name: [] for name in names}
    for item in items if names else ():
        try:
            record = records.read(item)
        except BadSample:
            record = {}
        for name in names:
            found[name].append(record.get(name) or "")
    return found
