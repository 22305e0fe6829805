import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import users_asked
from rated_world import MAX_LENGTH, N_ITEMS, impressions, ratings
from torch import Tensor

from transrec.data.batch import ImpressionBatch, Impressions, Sampling, to_device
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.impressions import ImpressionExamples
from transrec.data.train_stream import TrainStream
from transrec.features.feature import ItemColumnFeature, ItemIdFeature, TimeFeature, UserColumnFeature, UserIdFeature

MakeStream = Callable[..., TrainStream]
FEATURES = {
    "user": UserIdFeature(unknown=0.3),
    "item": ItemIdFeature(unknown=0.3),
    "words": ItemColumnFeature(column="title", several=" "),
    "age": UserColumnFeature(column="age", bands=[20, 30, 40]),
    "town": UserColumnFeature(column="town"),
    "hour": TimeFeature(part="hour"),
}
DRAWN = Sampling(drawn=6, contrasts="contrast")
EVERY = impressions(ratings())


def of_slots(shown: Impressions) -> list[Any]:
    """Each slot by catalogue indices and rows of features: candidate, history, features; the known values alone."""
    history = torch.where(shown.history_mask, shown.items[shown.history], 0).tolist()
    features = {name: [sorted(set(row) - {0}) for row in rows.tolist()] for name, rows in shown.features.items()}
    return [
        (item, before, {name: rows[slot] for name, rows in features.items()})
        for slot, (item, before) in enumerate(zip(shown.items[shown.candidates].tolist(), history, strict=True))
    ]


def of_items(shown: Impressions) -> dict[int, dict[str, list[int]]]:
    """The features of each item of the pool."""
    return {
        item: {name: sorted(set(rows[place].tolist()) - {0}) for name, rows in shown.item_features.items()}
        for place, item in enumerate(shown.items.tolist())
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def epoch(stream: TrainStream) -> list[ImpressionBatch]:
    return [batch for step in range(len(stream)) for batch in stream[step]]


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 1), (3, 2), (8, 3), (24, 1)])
def test_ranks_and_micro_batches_share_out_the_same_step(
    impression_stream: MakeStream, world_size: int, accumulation: int
) -> None:
    [whole] = impression_stream(DRAWN, features=FEATURES)[2]
    of_ranks = [
        impression_stream(DRAWN, features=FEATURES, rank=rank, world_size=world_size, accumulation=accumulation)[2]
        for rank in range(world_size)
    ]
    parts = [batch for of_a_number in zip(*of_ranks, strict=True) for batch in of_a_number]
    filled = whole.observed.any(1)
    slots = [slot for batch in parts for slot in of_slots(batch.shown)]
    for there, one, other in zip(filled.tolist(), slots, of_slots(whole.shown), strict=True):
        assert not there or one == other
    for name in ("labels", "observed"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in parts]), getattr(whole, name))
    pools = [of_items(batch.shown) for batch in parts]
    assert all(pool[item] == of_items(whole.shown)[item] for pool in pools for item in pool)
    assert {item for pool in pools for item in pool} >= of_items(whole.shown).keys()
    for batch in parts:
        assert batch.shown.items[batch.drawn].tolist() == whole.shown.items[whole.drawn].tolist()
    assert [user for batch in parts for user in batch.user_ids] == whole.user_ids
    assert sum(batch.digest for batch in parts) == whole.digest
    assert {name: sum(batch.counts[name] for batch in parts) for name in whole.counts} == whole.counts


def test_a_batch_holds_impressions_as_they_were(impression_stream: MakeStream) -> None:
    """Candidate, answer and the newest items before it, right-aligned; an epoch has each training impression once."""
    stream = impression_stream()
    found = []
    for batch in epoch(stream):
        assert torch.equal(batch.shown.history_mask, batch.shown.history_mask.sort(1).values), "padding is on the left"
        assert not batch.shown.history[~batch.shown.history_mask].any(), "padding points at row 0"
        assert torch.equal(batch.shown.items, batch.content.items)
        slots = [s for s, there in zip(of_slots(batch.shown), batch.observed.any(1), strict=True) if there]
        labels = batch.labels[batch.observed].tolist()
        found += [
            (user, item, tuple(i for i in before if i), label == 1)
            for user, (item, before, _), label in zip(batch.user_ids, slots, labels, strict=True)
        ]
    every = {(s.user, s.item): s for s in EVERY}
    assert len({(user, item) for user, item, *_ in found}) == len(found) == sum(stream.examples.counts)
    for user, item, before, clicked in found:
        shown = every[user, item]
        assert (before, clicked) == (shown.liked_before[-MAX_LENGTH:], shown.clicked)


def test_the_pool_is_the_distinct_items_of_the_batch(impression_stream: MakeStream) -> None:
    for batch in epoch(impression_stream(DRAWN)):
        used = {item for item, before, _ in of_slots(batch.shown) for item in (item, *before)} - {0}
        filled = batch.observed.any(1).all()
        drawn = set(batch.shown.items[batch.drawn].tolist())
        assert set(batch.shown.items.tolist()) == used | drawn or not filled
        assert batch.shown.items.tolist() == sorted(set(batch.shown.items.tolist()))


def test_occurrences_and_positions_count_items(impression_stream: MakeStream) -> None:
    for batch in epoch(impression_stream(DRAWN)):
        before = sum(len(set(h) - {0}) for _, h, _ in of_slots(batch.shown))
        assert batch.occurrences == len(batch.user_ids) + before + 6
        assert batch.positions == (before, 24 * MAX_LENGTH)
        assert batch.size == len(batch.user_ids)


# Empty slots


def test_an_empty_slot_trains_nothing(impression_stream: MakeStream) -> None:
    """Not even features: neither a user nor an hour."""
    stream = impression_stream(DRAWN, batch_size=64, features=FEATURES)
    step = len(stream) - 1
    slots, [batch] = stream.slots(step), stream[step]
    empty = [slot for slot, example in enumerate(slots) if example is None]
    assert empty
    assert not batch.observed[empty].any()
    assert not batch.labels[empty].any()
    assert not batch.shown.history_mask[empty].any()
    assert not any(rows[empty].any() for rows in batch.shown.features.values())
    assert batch.user_ids == [example.user_id for example in slots if example is not None]
    assert batch.counts == {"click": 64 - len(empty), "contrast": 0}, "nothing has content here"


def test_a_rank_whose_slots_are_all_empty_still_gets_a_batch(
    build_shards: Callable[..., Path], impression_stream: MakeStream
) -> None:
    """Collectives need every rank to run the encoder, and every table of features, all the same."""
    path = build_shards({"only": [(1, 1, 5), (2, 2, 1)]}, 4, profiles={"only": {"age": "3", "town": "x"}})
    parts = [impression_stream(DRAWN, 4, rank=r, world_size=4, path=path, features=FEATURES)[0][0] for r in range(4)]
    assert sorted(len(batch.user_ids) for batch in parts) == [0, 0, 1, 1]
    for batch in parts:
        assert len(batch.content.items) >= 1
        assert set(batch.shown.features) == {"user", "age", "town", "hour"}
        assert all(rows.shape[0] == 1 and rows.shape[1] >= 1 for rows in batch.shown.features.values())
        assert batch.counts["click"] == len(batch.user_ids)
    [bare] = [impression_stream(batch_size=4, rank=r, world_size=4, path=path)[0][0] for r in range(4)][:1]
    assert len(bare.content.items) >= 1


# What is drawn


def test_drawn_items_differ_by_step_and_seed(impression_stream: MakeStream) -> None:
    drawn = [
        tuple(stream[step][0].shown.items[stream[step][0].drawn].tolist())
        for stream in (impression_stream(DRAWN, seed=seed) for seed in (7, 8))
        for step in range(3 * len(stream))
    ]
    assert len(set(drawn)) == len(drawn) > 30
    assert {item for row in drawn for item in row} == set(range(1, N_ITEMS + 1))


def rows_by_user(batch: ImpressionBatch) -> dict[str, set[int]]:
    filled = batch.observed.any(1)
    found: dict[str, set[int]] = {}
    for user, row in zip(batch.user_ids, batch.shown.features["user"][filled, 0].tolist(), strict=True):
        found.setdefault(user, set()).add(row)
    return found


def test_ids_are_unknown_at_some_steps_alone(impression_stream: MakeStream) -> None:
    """A user is known or unknown in all impressions of a step, as is an item in all of its places."""
    stream = impression_stream(features=FEATURES)
    users: dict[str, set[int]] = {}
    items: dict[int, set[int]] = {}
    for batch in epoch(stream):
        for user, rows in rows_by_user(batch).items():
            assert len(rows) == 1
            users.setdefault(user, set()).update(rows)
        for item, row in zip(batch.shown.items.tolist(), batch.shown.item_features["item"][:, 0].tolist(), strict=True):
            items.setdefault(item, set()).add(row)
    for seen in (users, items):
        assert sum(0 in rows and len(rows) == 2 for rows in seen.values()) > len(seen) / 2
        known = [row for rows in seen.values() for row in rows - {0}]
        assert len(known) == len(set(known)), "no two share a row"


def test_the_share_of_unknown_ids_is_that_of_the_feature(impression_stream: MakeStream) -> None:
    """Of users and items, 30 % within four standard errors; other features are never dropped."""
    stream = impression_stream(features=FEATURES)
    trained = set(np.flatnonzero(stream.examples.popularity).tolist())
    users, items = [], []
    for step in range(8 * len(stream)):
        [batch] = stream[step]
        users += [rows == {0} for rows in rows_by_user(batch).values()]
        pool = batch.shown.items.tolist()
        rows = batch.shown.item_features
        items += [row == 0 for item, row in zip(pool, rows["item"][:, 0].tolist(), strict=True) if item in trained]
        assert (rows["words"] > 0).any(1).all()
    for dropped in (users, items):
        assert len(dropped) > 1000
        assert abs(np.mean(dropped) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(dropped))


def test_user_and_item_of_one_number_are_dropped_independently(impression_stream: MakeStream) -> None:
    """Otherwise the cold user would always be shown a cold item."""
    stream = impression_stream(features=FEATURES)
    together = []
    for step in range(8 * len(stream)):
        [batch] = stream[step]
        known = dict(zip(batch.shown.items.tolist(), batch.shown.item_features["item"][:, 0].tolist(), strict=True))
        numbers = {user: number for number, user in enumerate(sorted(ratings()), start=1)}
        together += [
            (rows == {0}) == (known[numbers[user]] == 0)
            for user, rows in rows_by_user(batch).items()
            if numbers[user] in known
        ]
    assert len(together) > 300
    assert abs(np.mean(together) - (0.3**2 + 0.7**2)) < 4 * np.sqrt(0.58 * 0.42 / len(together))


def test_questions_drop_nothing(scan_impressions: Callable[..., ImpressionExamples]) -> None:
    examples = scan_impressions(features=FEATURES)
    trained = {
        user for users, shown in examples.training() for user in users.user_ids.take(np.unique(shown.users)).to_pylist()
    }
    users = iter(users_asked(examples, "test"))
    for asked in filter(None, examples.questions("test")):
        for row in asked.shown.features["user"][:, 0].tolist():
            assert (row > 0) == (next(users) in trained)
        known = torch.from_numpy(examples.popularity)[asked.shown.items] > 0
        assert torch.equal(asked.shown.item_features["item"][:, 0] > 0, known)


# Content


def half_of(content: Any) -> Any:
    """Text content of the items whose number is even."""
    encode = content.encode
    content.key = "half"
    content.encode = lambda records: [ids if ids[0] % 2 == 0 else None for ids in encode(records)]
    return content


def test_a_contrast_counts_the_impressions_whose_item_has_content(
    scan_impressions: Callable[..., ImpressionExamples], numbered_content: Callable[..., Any]
) -> None:
    examples = scan_impressions()
    store = ItemStore(examples.folder, {"text": half_of(numbered_content())}, examples.config.cache)
    stream = TrainStream(examples, examples.collation(store, DRAWN, 7), 24, seed=7)
    for batch in epoch(stream):
        rows = batch.content.modalities["text"].rows
        assert batch.has_content.nonzero()[:, 0].tolist() == sorted(rows.tolist())
        shown = batch.shown.items[batch.shown.candidates[batch.observed.any(1)]]
        has = torch.isin(shown, batch.content.items[rows])
        assert batch.counts == {"click": len(shown), "contrast": int(has.sum())}


# Other processes and devices


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_loader_workers_gives_the_same_batches(impression_stream: MakeStream, workers: int) -> None:
    stream = impression_stream(DRAWN, accumulation=2, features=FEATURES)
    stop = len(stream) + 2
    loaded = list(stream.load(0, stop, workers))
    assert len(loaded) == stop
    assert all(equal(batches, stream[step]) for step, batches in enumerate(loaded))


def test_a_stream_in_another_process_gives_the_same_batches(impression_stream: MakeStream) -> None:
    stream = impression_stream(DRAWN, features=FEATURES)
    assert equal(pickle.loads(pickle.dumps(stream))[3], stream[3])


def test_a_batch_moves_whole_to_a_device(impression_stream: MakeStream) -> None:
    [batch] = impression_stream(DRAWN, features=FEATURES)[0]
    moved = to_device(batch, torch.device("meta"))
    shown = moved.shown
    tensors = [moved.labels, moved.observed, moved.drawn, moved.has_content, shown.items, shown.candidates]
    tensors += [shown.history, shown.history_mask, *shown.features.values(), *shown.item_features.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.user_ids == batch.user_ids


def test_a_part_of_impressions_lies_over_the_same_pool(impression_stream: MakeStream) -> None:
    [batch] = impression_stream(features=FEATURES)[0]
    part = batch.shown.part(5, 9)
    assert len(part) == 4
    assert of_slots(part) == of_slots(batch.shown)[5:9]
    assert torch.equal(part.items, batch.shown.items)
