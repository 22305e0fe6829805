"""The classes of an in-batch softmax; tests/integration/test_world_negatives.py trains with those of several ranks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from transrec.data.batch import SequenceBatch
from transrec.objectives.classes import _first_copies, _within
from transrec.objectives.next_item import InBatchSoftmaxConfig

WORLD = InBatchSoftmaxConfig(negatives_from="world")


def with_histories(batch: SequenceBatch) -> SequenceBatch:
    """The batch with the items of `owned` as numbers."""
    assert batch.owned is not None
    histories = torch.where(batch.owned, batch.content.items, 0).sort(1).values
    return replace(batch, histories=histories)


@pytest.mark.parametrize("largest", [0, 7, 12])
def test_the_world_of_one_rank_is_the_rank(make: Callable[..., Any], largest: int) -> None:
    case = make(WORLD.sampling)
    batch = with_histories(case.batch)
    batch = replace(batch, content=replace(batch.content, largest=largest))
    of_rank = InBatchSoftmaxConfig().build()(case.states, case.pool, batch)
    of_world = WORLD.build()(case.states, case.pool, batch)
    torch.testing.assert_close(of_world, of_rank)
    gradients = [torch.autograd.grad(loss, (case.states, case.pool)) for loss in (of_world, of_rank)]
    torch.testing.assert_close(*gradients)


def test_a_rank_without_windows_gives_no_classes(make: Callable[..., Any]) -> None:
    """Its one item only keeps the encoder running; as a class, it would make the loss depend on the number of ranks."""
    case = make(WORLD.sampling)
    none = case.batch.target_mask & False
    batch = replace(with_histories(case.batch), draws=0, target_mask=none, scored=none.flatten().nonzero()[:, 0])
    batch = replace(batch, content=replace(batch.content, largest=7))
    loss = WORLD.build()(case.states, case.pool, batch)
    assert loss.item() == 0
    loss.backward()
    assert not case.pool.grad.any()


def test_of_equal_items_the_first_is_the_class() -> None:
    assert _first_copies(torch.tensor([4, 2, 9, 4, 2, 4, 1])).tolist() == [0, 1, 2, 0, 1, 0, 6]


def test_items_are_looked_up_in_each_history() -> None:
    histories = torch.tensor([[0, 0, 3], [1, 4, 9], [0, 0, 0]])
    found = _within(torch.tensor([9, 3, 1, 5, 10]), histories)
    assert found.tolist() == [[False, True, False, False, False], [True, False, True, False, False], [False] * 5]


def test_a_batch_without_histories_is_an_error(make: Callable[..., Any]) -> None:
    case = make(WORLD.sampling)
    with pytest.raises(ValueError, match=r"batch\.histories"):
        WORLD.build()(case.states, case.pool, replace(case.batch, histories=None))
