import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transrec.data.order import EpochOrder

BATCH_SIZES = [1, 2, 5, 12, 48, 64, 67, 96]


@st.composite
def orders(draw: st.DrawFn) -> EpochOrder:
    blocks = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any))
    cuts = draw(st.lists(st.booleans(), min_size=len(blocks) - 1, max_size=len(blocks) - 1))
    shard_of_block = np.cumsum([0, *cuts])
    return EpochOrder(np.array(blocks), shard_of_block, draw(st.sampled_from(BATCH_SIZES)), draw(st.integers(0, 2**32)))


def epoch_slots(order: EpochOrder, epoch: int = 0) -> list[list[tuple[int, int]]]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return [[(int(b), int(w)) for b, w in order.slots(step)] for step in steps]


@given(orders(), st.integers(0, 3))
def test_every_window_once_in_an_epoch(order: EpochOrder, epoch: int) -> None:
    seen = [slot for step in epoch_slots(order, epoch) for slot in step if slot != (-1, -1)]
    everything = [(b, w) for b, count in enumerate(order.block_windows) for w in range(count)]
    assert sorted(seen) == everything


@given(orders())
def test_empty_slots_are_spread_over_the_steps_of_an_epoch(order: EpochOrder) -> None:
    """Windows of a lane at each step differ by one at most, and lanes of equal length differ in when."""
    filled = np.array(epoch_slots(order))[..., 0] >= 0
    by_lane = filled.reshape(order.steps_per_epoch, order.lanes, -1).sum(axis=2)
    assert (np.ptp(by_lane, axis=0) <= 1).all()
    if order.windows % order.lanes == 0:
        assert np.ptp(by_lane.sum(axis=1)) <= 1


@given(orders(), st.data())
def test_parts_of_the_ranks_concatenate_to_the_global_step(order: EpochOrder, data: st.DataObject) -> None:
    ranks = data.draw(st.sampled_from([n for n in range(1, order.batch_size + 1) if order.batch_size % n == 0]))
    step, share = data.draw(st.integers(0, 3 * order.steps_per_epoch)), order.batch_size // ranks
    parts = [order.slots(step, rank * share, (rank + 1) * share) for rank in range(ranks)]
    np.testing.assert_array_equal(np.concatenate(parts), order.slots(step))


@given(orders(), st.randoms(use_true_random=False))
def test_a_step_does_not_depend_on_the_steps_asked_before(order: EpochOrder, random) -> None:
    fresh = EpochOrder(order.block_windows, order.block_shard, order.batch_size, order.seed)
    in_order = [order.slots(step) for step in range(2 * order.steps_per_epoch)]
    shuffled = list(range(len(in_order)))
    random.shuffle(shuffled)
    for step in shuffled:
        np.testing.assert_array_equal(fresh.slots(step), in_order[step])


@given(orders())
def test_each_lane_reads_the_shards_front_to_back(order: EpochOrder) -> None:
    """No block is skipped or visited twice, and none comes before one that lies ahead of it in the same shard. Except:
    where all windows lie in one shard, the ring closes inside it, once."""
    steps, per_lane = epoch_slots(order), order.batch_size // order.lanes
    one_shard = len(set(order.block_shard[order.block_windows > 0])) == 1
    for lane in range(order.lanes):
        walked = [b for step in steps for b, _ in step[lane * per_lane : (lane + 1) * per_lane] if b >= 0]
        visits = [b for i, b in enumerate(walked) if i == 0 or b != walked[i - 1]]
        assert len(visits) == len(set(visits))
        returns = 0
        for before, after in pairwise(visits):
            if order.block_shard[before] == order.block_shard[after]:
                returns += after < before
                assert not order.block_windows[before + 1 : after].any(), "a block was skipped"
        assert returns <= one_shard


@given(orders())
def test_lanes_are_as_many_as_the_largest_divisor_of_the_batch_up_to_64(order: EpochOrder) -> None:
    divisors = [n for n in range(1, 65) if order.batch_size % n == 0]
    assert order.lanes == max(divisors)


@pytest.mark.parametrize("what", ["seed", "epoch"])
def test_another_seed_or_epoch_is_another_order(what: str) -> None:
    blocks, shards = np.full(6, 20), np.repeat([0, 1, 2], 2)
    order = EpochOrder(blocks, shards, 12, seed=0)
    other = epoch_slots(order, 1) if what == "epoch" else epoch_slots(EpochOrder(blocks, shards, 12, seed=1))
    assert epoch_slots(order) != other
    first_blocks = {step[0][0] for step in epoch_slots(order)}
    assert first_blocks != {step[0][0] for step in other}, "blocks must move too, not only the windows inside"


def test_windows_are_shuffled_inside_a_block() -> None:
    order = EpochOrder(np.array([100]), np.array([0]), 1, seed=0)
    windows = [step[0][1] for step in epoch_slots(order)]
    assert windows != sorted(windows)
    assert windows != [step[0][1] for step in epoch_slots(order, 1)]


@settings(max_examples=20)
@given(orders())
def test_pickled_order_is_the_same_order(order: EpochOrder) -> None:
    order.slots(0)
    copy = pickle.loads(pickle.dumps(order))
    assert epoch_slots(copy) == epoch_slots(order)


def test_a_step_takes_its_windows_from_every_lane_alike() -> None:
    order = EpochOrder(np.full(64, 10), np.arange(64), 128, seed=3)
    assert order.lanes == 64
    blocks = [b for b, _ in epoch_slots(order)[0]]
    assert len(set(blocks)) == 64, "640 windows on a line, cut into 64 lanes: each step touches the whole line"
