from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.batch import Sampling
from transrec.data.examples.cloze import hide
from transrec.data.train_stream import TrainStream

OTHERS = np.arange(1000, 2000)


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_targets_are_a_share_of_the_items_and_nothing_else_changes(length: int, share: float, seed: int) -> None:
    items = np.arange(1, length + 1)
    inputs, masked, targets = hide(np.random.default_rng(seed), items, share, OTHERS)
    chosen = targets > 0
    assert chosen.sum() == max(1, round(share * length))
    assert (targets[chosen] == items[chosen]).all()
    assert (inputs[~chosen] == items[~chosen]).all()
    assert not masked[~chosen].any()
    assert (inputs[masked] == 0).all()
    seen = inputs[chosen & ~masked]
    assert ((seen == items[chosen & ~masked]) | (seen >= 1000)).all()


def test_of_the_targets_eighty_ten_ten() -> None:
    items, rng = np.arange(1, 11), np.random.default_rng(0)
    counts, places = np.zeros(3), np.zeros(10)
    for _ in range(4_000):
        inputs, masked, targets = hide(rng, items, 0.3, OTHERS)
        chosen = targets > 0
        kept = chosen & (inputs == items)
        counts += [masked.sum(), kept.sum(), (chosen & ~masked & ~kept).sum()]
        places += chosen
    assert counts.sum() == 12_000
    np.testing.assert_allclose(counts / counts.sum(), [0.8, 0.1, 0.1], atol=0.015)
    np.testing.assert_allclose(places / 4_000, 0.3, atol=0.04)


def test_windows_have_their_items_hidden_anew_at_each_visit(make_stream: Callable[..., TrainStream]) -> None:
    sampling = Sampling(masked=0.3)
    stream = make_stream(sampling)
    patterns = []
    for step in (0, 1, len(stream), len(stream) + 1):
        [batch] = stream[step]
        items = batch.content.items
        for row, window in enumerate(stream.slots(step)):
            if window is None:
                assert not batch.input_mask[row].any()
                continue
            newest = window.items[-batch.inputs.shape[1] :]
            here = batch.input_mask[row]
            assert here.sum() == len(newest)
            scored = batch.target_mask[row]
            assert scored.sum() == max(1, round(0.3 * len(newest)))
            targets = items[batch.targets[row, scored]].tolist()
            assert targets == newest[scored[here].numpy()].tolist()
            assert not (batch.masked[row] & ~scored).any()
            untouched = here & ~scored
            assert items[batch.inputs[row, untouched]].tolist() == newest[untouched[here].numpy()].tolist()
        patterns.append(batch.masked)
    assert not any(torch.equal(one, other) for i, one in enumerate(patterns) for other in patterns[:i])
    assert torch.equal(make_stream(sampling)[1][0].masked, patterns[1])
    assert not torch.equal(make_stream(sampling, seed=8)[1][0].masked, patterns[1])


def test_what_stands_for_a_replaced_item_is_an_item_of_the_data(make_stream: Callable[..., TrainStream]) -> None:
    stream = make_stream(Sampling(masked=0.5))
    replaced = 0
    for step in range(len(stream)):
        [batch] = stream[step]
        seen = batch.target_mask & ~batch.masked
        odd = seen & (batch.inputs != batch.targets)
        replaced += int(odd.sum())
        assert set(batch.content.items[batch.inputs[odd]].tolist()) <= set(stream.examples.sampled.tolist())
    assert replaced > 10
