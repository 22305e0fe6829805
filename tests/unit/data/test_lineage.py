"""What the order says afterwards is what the batches held."""

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from transrec.data.batch import Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.lineage import Lineage
from transrec.data.train_stream import TrainStream

BATCH, EPOCHS = 12, 3


@pytest.fixture
def stream(synthetic_shards: Path, tmp_path: Path) -> TrainStream:
    config = DataConfig(path=synthetic_shards, stride=3, fraction=0.6)
    interactions = config.scan(5)
    store = ItemStore(interactions.shards.folder, {}, tmp_path)
    collate = interactions.collation(store, Sampling(negatives=1), 3)
    return TrainStream(interactions, collate, BATCH, seed=3)


def test_places_are_the_inverse_of_slots(stream: TrainStream) -> None:
    order = stream.order
    for step in range(2 * order.steps_per_epoch):
        for slot, (block, within) in enumerate(order.slots(step).tolist()):
            if block >= 0:
                place = order.places(order.epoch_of(step)[0], block, np.array([within]))
                assert place.tolist() == [[step, slot]]


def test_users_and_items_are_where_the_batches_had_them(stream: TrainStream) -> None:
    steps = EPOCHS * len(stream) - 2  # the last epoch is cut off
    lineage = Lineage(stream, steps)
    users, items = defaultdict(list), defaultdict(list)
    for step in range(steps):
        (batch,) = stream[step]
        recorded = lineage.step(step + 1)
        assert [window.user_id for window in recorded.windows.values()] == batch.user_ids
        assert recorded.items.tolist() == sorted(batch.content.items.tolist())
        for slot, window in enumerate(stream.slots(step)):
            if window is not None:
                users[window.user_id].append((step + 1, slot))
                for item in set(window.items.tolist()):
                    items[item].append((step + 1, slot))
    for user_id in users:
        assert [(s.step, s.slot) for s in lineage.user(user_id)] == users[user_id]
    for item in range(1, stream.examples.shards.index.counts.items + 1):
        assert [(s.step, s.slot) for s in lineage.item(item)] == items[item]


def test_every_user_is_found_and_no_other(stream: TrainStream) -> None:
    shards = stream.examples.shards
    for number in range(len(shards)):
        for place, user_id in enumerate(shards.block(number).user_ids.to_pylist()):
            assert shards.find(user_id) == (number, place)
    for _ in range(20):
        with pytest.raises(KeyError):
            shards.find(f"nobody-{random.random()}")


def test_a_user_outside_the_fraction_has_no_steps(stream: TrainStream) -> None:
    last_block = stream.examples.block(len(stream.examples.shards) - 1)
    assert Lineage(stream, 100).user(last_block.user_ids[0].as_py()) == []
