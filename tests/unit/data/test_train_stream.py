import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.batch import ItemContent, Sampling, SequenceBatch, to_device
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.histories import HistoryExamples
from transrec.data.train_stream import TrainStream

L = 5
MakeStream = Callable[..., TrainStream]
NEGATIVES = Sampling(negatives=3)
SAMPLINGS = {
    "plain": Sampling(),
    "negatives": NEGATIVES,
    "last": Sampling(positions="last", negatives=2),
    "catalogue": Sampling(pool="catalogue"),
    "owned": Sampling(owned=True),
    "candidates": Sampling(candidates=0.2),
    "masked": Sampling(masked=0.3),
}
EVERY_SAMPLING = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


def items_of(batch: SequenceBatch, rows: Tensor, mask: Tensor) -> Tensor:
    """Catalogue indices behind pool rows, 0 where masked."""
    return torch.where(mask, batch.content.items[rows], 0)


def inputs_of(batch: SequenceBatch) -> Tensor:
    hidden = torch.zeros_like(batch.input_mask) if batch.masked is None else batch.masked
    return items_of(batch, batch.inputs, batch.input_mask & ~hidden)


def targets_of(batch: SequenceBatch) -> Tensor:
    return items_of(batch, batch.targets, batch.target_mask)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, ItemContent | SequenceBatch):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


def training_histories(interactions: HistoryExamples) -> dict[str, list[int]]:
    return {
        user_id: block.history(user)[: stops[user]].tolist()
        for number, stops in enumerate(map(interactions.train_stops, range(len(interactions.shards))))
        for block in [interactions.block(number)]
        for user, user_id in enumerate(block.user_ids.to_pylist())
    }


def filled(batch: SequenceBatch) -> list[tuple[str, int]]:
    """(user, row) of the slots that are not empty; each lane of an epoch's last step may end in empty ones."""
    return list(zip(batch.user_ids, batch.input_mask.any(1).nonzero()[:, 0].tolist(), strict=True))


def transitions(batches: Iterable[SequenceBatch]) -> Counter[tuple[str, int, int]]:
    """(user, item, next item) as the batches have them; windows of "all" positions only."""
    found: Counter[tuple[str, int, int]] = Counter()
    for batch in batches:
        inputs = items_of(batch, batch.inputs, batch.input_mask)
        targets = items_of(batch, batch.targets, batch.target_mask)
        for user, row in filled(batch):
            pairs = zip(inputs[row].tolist(), targets[row].tolist(), strict=True)
            found.update((user, item, target) for item, target in pairs if target)
    return found


def epoch(stream: TrainStream) -> list[SequenceBatch]:
    return [batch for step in range(len(stream)) for batch in stream[step]]


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_an_epoch_scores_every_training_transition_once(make_stream: MakeStream, stride: int | None) -> None:
    stream = make_stream(stride=stride)
    expected = Counter(
        (user, *pair) for user, history in training_histories(stream.examples).items() for pair in pairwise(history)
    )
    assert sum(expected.values()) > 1000
    assert transitions(epoch(stream)) == expected


@EVERY_SAMPLING
def test_shapes_types_and_masks(make_stream: MakeStream, sampling: Sampling) -> None:
    stream = make_stream(sampling)
    positions = 1 if sampling.positions == "last" else L
    for batch in epoch(stream):
        users, pool = 24, len(batch.content.items)
        assert batch.inputs.shape == batch.input_mask.shape == (users, L)
        assert batch.targets.shape == batch.target_mask.shape == (users, positions)
        assert batch.negatives.shape == (users, positions, sampling.negatives)
        assert batch.log_popularity.shape == (pool,)
        assert batch.log_popularity.dtype == torch.float32
        for rows in (batch.inputs, batch.targets, batch.negatives):
            assert rows.dtype == torch.int64
            assert rows.numel() == 0 or set(rows.unique().tolist()) <= set(range(pool))
        assert not batch.inputs[~batch.input_mask].any(), "padding points at row 0"
        assert torch.equal(batch.input_mask, batch.input_mask.sort(1).values), "padding is on the left"
        assert not (batch.target_mask & ~batch.input_mask[:, -positions:]).any(), "what is scored has an input"
        assert sum(batch.counts.values()) == int(batch.target_mask.sum())


@pytest.mark.parametrize("sampling", [s for s in SAMPLINGS.values() if not s.masked])
def test_inputs_are_what_precedes_the_targets(make_stream: MakeStream, sampling: Sampling) -> None:
    stream = make_stream(sampling, stride=3)
    for step in range(len(stream)):
        [batch] = stream[step]
        inputs = items_of(batch, batch.inputs, batch.input_mask).tolist()
        targets = items_of(batch, batch.targets, batch.target_mask).tolist()
        for window, row_inputs, row_targets in zip(stream.slots(step), inputs, targets, strict=True):
            if window is None:
                assert not any(row_inputs + row_targets)
                continue
            whole = [0] * (L + 1 - len(window.items)) + window.items.tolist()
            assert row_inputs == whole[:-1]
            if sampling.positions == "last":
                assert row_targets == whole[-1:]
            else:
                assert row_targets == [0] * (L - window.scored) + whole[-window.scored :]


@pytest.mark.parametrize("sampling", [NEGATIVES, SAMPLINGS["plain"]], ids=["negatives", "plain"])
def test_the_pool_is_the_distinct_items_of_the_batch(make_stream: MakeStream, sampling: Sampling) -> None:
    for batch in epoch(make_stream(sampling)):
        scored = batch.target_mask.unsqueeze(-1).expand_as(batch.negatives)
        used = torch.cat(
            [
                batch.content.items[batch.inputs[batch.input_mask]],
                batch.content.items[batch.targets[batch.target_mask]],
                batch.content.items[batch.negatives[scored]],
            ]
        )
        assert sorted(batch.content.items.tolist()) == sorted(set(used.tolist()))


def test_the_catalogue_pool_is_every_candidate(make_stream: MakeStream) -> None:
    stream = make_stream(SAMPLINGS["catalogue"])
    for batch in epoch(stream):
        assert batch.content.items.tolist() == stream.examples.sampled.tolist()


def test_content_changes_nothing_else_of_a_batch(
    scan: Callable[..., HistoryExamples], numbered_content: Callable[..., Any]
) -> None:
    interactions = scan()
    store = ItemStore(interactions.shards.folder, {"text": numbered_content()}, interactions.config.cache)
    without = ItemStore(interactions.shards.folder, {}, Path())
    stream, plain = (
        TrainStream(interactions, interactions.collation(s, NEGATIVES, 7), 24, seed=7) for s in (store, without)
    )
    for step in range(len(stream)):
        [with_text], [without] = stream[step], plain[step]
        assert list(with_text.content.modalities) == ["text"]
        for name in ("inputs", "targets", "negatives", "log_popularity"):
            assert torch.equal(getattr(with_text, name), getattr(without, name))
        assert torch.equal(with_text.content.items, without.content.items)


def test_negatives_are_candidates_that_the_user_did_not_train_on(make_stream: MakeStream) -> None:
    stream = make_stream(NEGATIVES)
    histories = training_histories(stream.examples)
    drawn = set()
    for batch in epoch(stream):
        for user, row in filled(batch):
            negatives = batch.content.items[batch.negatives[row][batch.target_mask[row]]].ravel().tolist()
            assert not set(negatives) & set(histories[user])
            drawn |= set(negatives)
    assert drawn == set(stream.examples.sampled.tolist()), "all candidates are drawn in an epoch this long"


def test_negatives_differ_by_slot_step_and_seed(make_stream: MakeStream) -> None:
    """No two windows draw the same fifteen items."""
    draws = []
    for seed in (7, 8):
        stream = make_stream(NEGATIVES, seed=seed)
        for batch in (stream[step][0] for step in (0, 1, len(stream))):
            complete = batch.target_mask.all(1)
            draws += [tuple(row) for row in batch.content.items[batch.negatives[complete]].flatten(1).tolist()]
    assert len(draws) > 50
    assert len(set(draws)) == len(draws)


def test_owned_marks_the_pool_items_of_the_users_training_history(make_stream: MakeStream) -> None:
    stream = make_stream(SAMPLINGS["owned"])
    histories = training_histories(stream.examples)
    for batch in epoch(stream):
        assert batch.owned is not None
        for user, row in filled(batch):
            assert batch.owned[row].tolist() == [item in histories[user] for item in batch.content.items.tolist()]
    assert make_stream()[0][0].owned is None


def test_empty_slots_own_nothing_and_score_nothing(make_stream: MakeStream) -> None:
    stream = make_stream(SAMPLINGS["owned"], batch_size=64)
    windows, [batch] = stream.slots(len(stream) - 1), stream[len(stream) - 1]
    empty = [row for row, window in enumerate(windows) if window is None]
    assert empty
    assert batch.owned is not None
    assert not batch.owned[empty].any()
    assert not batch.target_mask[empty].any()
    assert not batch.input_mask[empty].any()
    assert batch.user_ids == [window.user_id for window in windows if window is not None]


def test_log_popularity_is_the_share_of_training_interactions(make_stream: MakeStream) -> None:
    stream = make_stream()
    counts = np.maximum(stream.examples.popularity, 1)
    [batch] = stream[0]
    expected = np.log(counts[batch.content.items.numpy()] / counts[1:].sum())
    np.testing.assert_allclose(batch.log_popularity.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 1), (3, 2), (8, 3), (24, 1)])
@pytest.mark.parametrize("name", ["negatives", "last", "owned", "candidates", "masked"])
def test_ranks_and_micro_batches_share_out_the_same_step(
    make_stream: MakeStream, world_size: int, accumulation: int, name: str
) -> None:
    sampling = SAMPLINGS[name]
    [whole] = make_stream(sampling)[2]
    of_ranks = [
        make_stream(sampling, rank=rank, world_size=world_size, accumulation=accumulation)[2]
        for rank in range(world_size)
    ]
    parts = [batch for of_a_number in zip(*of_ranks, strict=True) for batch in of_a_number]
    assert len(parts) == world_size * accumulation
    assert [user for batch in parts for user in batch.user_ids] == whole.user_ids
    for items in (inputs_of, targets_of):
        assert torch.equal(torch.cat([items(batch) for batch in parts]), items(whole))
    negatives = torch.cat([b.content.items[b.negatives[b.target_mask]] for b in parts])
    assert torch.equal(negatives, whole.content.items[whole.negatives[whole.target_mask]])
    for batch in parts if sampling.candidates else ():
        assert torch.equal(batch.content.items[batch.candidates], whole.content.items[whole.candidates])
    if sampling.masked:
        assert torch.equal(torch.cat([batch.masked for batch in parts]), whole.masked)
    assert sum(batch.digest for batch in parts) == whole.digest


def test_digest_tells_another_order_of_the_same_windows(
    make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream()
    [before] = stream[0]
    slots = stream.order.slots(0)[::-1].copy()
    monkeypatch.setattr(stream.order, "slots", lambda step, first=0, stop=None: slots[first:stop])
    [after] = stream[0]
    assert sorted(after.user_ids) == sorted(before.user_ids)
    assert after.digest != before.digest


def test_digests_of_all_steps_differ(make_stream: MakeStream) -> None:
    stream = make_stream()
    digests = [stream[step][0].digest for step in range(2 * len(stream))]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_loader_workers_gives_the_same_batches(make_stream: MakeStream, workers: int) -> None:
    stream = make_stream(NEGATIVES, accumulation=2)
    stop = len(stream) + 2
    loaded = list(stream.load(0, stop, workers))
    assert len(loaded) == stop
    assert all(equal(batches, stream[step]) for step, batches in enumerate(loaded))


@pytest.mark.parametrize("start", [1, 5, 30])
def test_resuming_is_the_tail_of_the_whole(make_stream: MakeStream, start: int) -> None:
    """Two fresh streams, as in two processes; 30 is in the second epoch."""
    stop = 34
    whole = list(make_stream(NEGATIVES).load(0, stop, 0))
    tail = list(make_stream(NEGATIVES).load(start, stop, 0))
    assert len(make_stream()) < 30
    assert all(equal(one, other) for one, other in zip(tail, whole[start:], strict=True))


def test_a_stream_in_another_process_gives_the_same_batches(make_stream: MakeStream) -> None:
    stream = make_stream(NEGATIVES)
    assert equal(pickle.loads(pickle.dumps(stream))[3], stream[3])


@pytest.mark.parametrize(
    ("split", "windows", "expected"),
    [
        ("leave_one_out", "all", "938af52b853c40d4"),
        ("leave_one_out", "last", "69af8f5e7d6a9672"),
        ("temporal", "all", "250612e6a774b3c9"),
    ],
)
def test_the_batches_of_a_seed_are_what_they_always_were(
    make_stream: MakeStream, split: str, windows: str, expected: str
) -> None:
    """A run that was interrupted may be resumed by a later version: its windows and negatives must not move."""
    stream = make_stream(NEGATIVES, windows=windows, split={"name": split}, stride=3)
    seen = hashlib.sha256()
    for step in range(len(stream) + 2):
        [batch] = stream[step]
        seen.update("\0".join(batch.user_ids).encode())
        seen.update(items_of(batch, batch.inputs, batch.input_mask).numpy().tobytes())
        seen.update(items_of(batch, batch.targets, batch.target_mask).numpy().tobytes())
        seen.update(batch.content.items[batch.negatives[batch.target_mask]].numpy().tobytes())
    assert seen.hexdigest()[:16] == expected


def test_a_later_epoch_has_the_same_windows_in_another_order(make_stream: MakeStream) -> None:
    stream = make_stream()
    first, second = epoch(stream), [stream[step][0] for step in range(len(stream), 2 * len(stream))]
    assert transitions(first) == transitions(second)
    assert [batch.user_ids for batch in first] != [batch.user_ids for batch in second]


@pytest.mark.parametrize("windows", ["all", "last"])
def test_temporal_and_shortened_histories_stream_too(make_stream: MakeStream, windows: str) -> None:
    stream = make_stream(windows=windows, split={"name": "temporal"})
    expected = Counter(
        (user, *pair) for user, history in training_histories(stream.examples).items() for pair in pairwise(history)
    )
    assert transitions(epoch(stream)) == expected
    assert expected


@EVERY_SAMPLING
def test_a_rank_whose_slots_are_all_empty_still_gets_a_batch(
    build_shards: Callable[..., Path], make_stream: MakeStream, sampling: Sampling
) -> None:
    """One user, eight ranks: collectives need every rank to run the encoder all the same."""
    path = build_shards({"only": [1, 2, 3, 4, 5]}, n_items=6)
    parts = [make_stream(sampling, 8, rank=rank, world_size=8, path=path)[0][0] for rank in range(8)]
    assert sorted(len(batch.user_ids) for batch in parts) == [0] * 7 + [1]
    for batch in parts:
        assert len(batch.content.items) >= 1
        assert batch.inputs.shape == (1, L)
        few = sampling.positions == "last" or sampling.masked
        assert sum(batch.counts.values()) == (0 if not batch.user_ids else 1 if few else 2)


@pytest.mark.parametrize(("history", "least"), [([1, 2], 5), pytest.param([1, 2, 3], 3)])
def test_data_without_a_training_window_is_a_readable_error(
    build_shards: Callable[..., Path], make_stream: MakeStream, history: list[int], least: int
) -> None:
    path = build_shards({"short": history}, n_items=3)
    with pytest.raises(ConfigError, match="min_interactions"):
        make_stream(path=path, min_interactions=least).examples.check_training()


def test_draws_are_the_items_of_all_windows(make_stream: MakeStream) -> None:
    stream = make_stream(NEGATIVES)
    for step in range(len(stream)):
        windows = [window for window in stream.slots(step) if window is not None]
        assert stream[step][0].draws == sum(len(window.items) for window in windows)


def test_occurrences_are_what_an_encoder_without_a_pool_would_run(make_stream: MakeStream) -> None:
    """A window of n items: all n, and K negatives for each target."""
    stream = make_stream(NEGATIVES)
    windows, [batch] = stream.slots(len(stream) - 1), stream[len(stream) - 1]
    assert batch.occurrences == sum(len(w.items) + 3 * w.scored for w in windows if w is not None)


def test_moving_a_batch_moves_every_tensor(make_stream: MakeStream) -> None:
    [batch] = make_stream(SAMPLINGS["owned"])[0]
    moved = to_device(batch, torch.device("meta"))
    tensors = [getattr(moved, f.name) for f in fields(moved)] + [moved.content.items]
    assert all(tensor.device.type == "meta" for tensor in tensors if isinstance(tensor, Tensor))
    assert moved.user_ids == batch.user_ids
    assert equal(to_device(batch, torch.device("cpu")), batch)
