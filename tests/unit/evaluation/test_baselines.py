"""Counting baselines by hand: users 1-2-3, 1-2-4 and 4-2, five items, item 5 never seen."""

import numpy as np
import pytest
import torch

from transrec.evaluation.baselines import ItemToItem, MostPopular
from transrec.evaluation.full_ranking import top_items

BLOCK = (np.array([1, 2, 3, 1, 2, 4, 4, 2]), np.array([3, 3, 2]))
COUNTS = [0, 2, 3, 1, 2, 0]
EVERYTHING = torch.arange(6) > 0
POPULARITY = torch.tensor(COUNTS) / 4


def scores(baseline, history) -> torch.Tensor:
    return baseline.for_users(torch.tensor(history))(1, 6)


def test_most_popular_is_the_same_for_everybody():
    baseline = MostPopular(torch.tensor(COUNTS))
    assert scores(baseline, [[0, 1], [2, 3]]).tolist() == [[2, 3, 1, 2, 0]] * 2


def test_transitions_stay_within_a_sequence():
    baseline = ItemToItem.fit([BLOCK], 5)
    expected = np.zeros((6, 6))
    expected[1, 2], expected[2, 3], expected[2, 4], expected[4, 2] = 2, 1, 1, 1
    np.testing.assert_array_equal(baseline.transitions.toarray(), expected)
    assert baseline.counts.tolist() == COUNTS


def test_blocks_add_up():
    items, lengths = BLOCK
    blocks = [(items[:3], lengths[:1]), (items[:0], lengths[:0]), (items[3:], np.array([0, 3, 0, 2]))]
    split, whole = ItemToItem.fit(iter(blocks), 5), ItemToItem.fit([BLOCK], 5)
    assert abs(split.transitions - whole.transitions).sum() == 0
    assert torch.equal(split.counts, whole.counts)


def test_the_item_p_places_back_weighs_one_pth():
    """After 2, then 1 (last): 2 x 60/1 for 1 -> 2, and 1 x 60/2 for 2 -> 3 and 2 -> 4."""
    found = scores(ItemToItem.fit([BLOCK], 5), [[2, 1]])
    torch.testing.assert_close(
        found, (torch.tensor([[0, 120, 30, 30, 0]]) + POPULARITY[1:]).double(), check_dtype=False
    )


def test_padding_may_lie_on_any_side():
    found = scores(ItemToItem.fit([BLOCK], 5), [[0, 0, 2, 1], [2, 1, 0, 0], [0, 2, 0, 1]])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_only_recent_items_count():
    baseline = ItemToItem.fit([BLOCK], 5)
    assert torch.equal(scores(baseline, [[1, 5, 5, 5, 5, 5]]), POPULARITY[None, 1:])
    assert not torch.equal(scores(baseline, [[1, 5, 5, 5, 5]]), POPULARITY[None, 1:])


def test_popularity_breaks_ties_only():
    """3 and 4 both followed 2 once: the more popular 4 comes first, then 3, then what never followed 2."""
    score = ItemToItem.fit([BLOCK], 5).for_users(torch.tensor([[2]]))
    _, indices = top_items(score, 5, torch.tensor([[2]]), EVERYTHING, 4)
    assert indices.tolist() == [[4, 3, 1, 5]]


def test_chunks_agree_with_the_whole():
    score = ItemToItem.fit([BLOCK], 5).for_users(torch.tensor([[2, 1], [0, 4]]))
    assert torch.equal(torch.cat([score(1, 3), score(3, 6)], dim=1), score(1, 6))


def test_a_user_without_history_gets_what_is_popular():
    assert torch.equal(scores(ItemToItem.fit([BLOCK], 5), [[0, 0]]), POPULARITY[None, 1:])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((np.array([1, 2]), np.array([3])), "add up to 3"),
        ((np.array([0, 2]), np.array([2])), r"1\.\.5"),
        ((np.array([1, 6]), np.array([2])), r"1\.\.5"),
    ],
)
def test_refuses_blocks_that_do_not_fit(block, message):
    with pytest.raises(ValueError, match=message):
        ItemToItem.fit([block], 5)
