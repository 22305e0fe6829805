"""Counting direct successors by hand: users 1-2-3, 1-2-4 and 4-2, five items, item 5 never seen."""

import numpy as np
import pytest
from evidence_tables import GivenSequences, made

from transrec.data.batch import SeenItems
from transrec.evidence import pair_files
from transrec.evidence.item_to_item import ItemToItemConfig

BLOCK = (np.array([1, 2, 3, 1, 2, 4, 4, 2]), np.array([3, 3, 2]))


def counted(folder, *blocks, size=5):
    evidence = made(ItemToItemConfig(), GivenSequences(blocks, size), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["columns.int32", "starts.npy", "values.float32"]
    return evidence


def scores(evidence, *histories, size=5):
    lengths = np.array([len(history) for history in histories])
    items = np.concatenate([*histories, []]).astype(np.int64)
    return evidence.scores(SeenItems(items, lengths, size)).toarray()[:, 1:].tolist()


def table(evidence):
    return evidence.counts.rows(np.arange(evidence.counts.size)).toarray()


def test_successors_stay_within_a_sequence(tmp_path):
    expected = np.zeros((6, 6))
    expected[1, 2], expected[2, 3], expected[2, 4], expected[4, 2] = 2, 1, 1, 1
    np.testing.assert_array_equal(table(counted(tmp_path / "c", BLOCK)), expected)


def test_blocks_add_up(tmp_path):
    items, lengths = BLOCK
    blocks = [(items[:3], lengths[:1]), (items[:0], lengths[:0]), (items[3:], np.array([0, 3, 0, 2]))]
    split, whole = counted(tmp_path / "split", *blocks), counted(tmp_path / "whole", BLOCK)
    np.testing.assert_array_equal(table(split), table(whole))


@pytest.mark.parametrize("ranges", [1, 3, 200])
@pytest.mark.parametrize("at_once", [1, 50, 2**20])
@pytest.mark.parametrize("part", [1, 2**20])
def test_writing_pairs_in_parts_changes_nothing(tmp_path, monkeypatch, ranges, at_once, part):
    """Against a matrix that every pair is added to; an item may follow itself."""
    monkeypatch.setattr(pair_files, "_PAIRS_AT_ONCE", 10)
    monkeypatch.setattr(pair_files, "MOST_RANGES", ranges)
    monkeypatch.setattr(pair_files, "_INTERACTIONS_AT_ONCE", at_once)
    monkeypatch.setattr(pair_files, "_INTERACTIONS_OF_A_PART", part)
    generator = np.random.default_rng(0)
    users = [generator.integers(1, 21, generator.integers(0, 12)) for _ in range(40)]
    expected = np.zeros((21, 21))
    for user in users:
        np.add.at(expected, (user[:-1], user[1:]), 1)
    lists = [(np.concatenate(some), np.array([len(user) for user in some])) for some in (users[:9], users[9:])]
    np.testing.assert_array_equal(table(counted(tmp_path / "c", *lists, size=20)), expected)


def test_the_item_p_places_back_weighs_one_pth(tmp_path):
    """After 2, then 1 (last): 2 x 60/1 for 1 -> 2, and 1 x 60/2 for 2 -> 3 and 2 -> 4."""
    assert scores(counted(tmp_path / "c", BLOCK), [2, 1]) == [[0, 120, 30, 30, 0]]


def test_an_item_that_occurs_twice_weighs_the_sum(tmp_path):
    assert scores(counted(tmp_path / "c", BLOCK), [2, 1, 2]) == [[0, 60, 80, 80, 0]]


def test_only_recent_items_count(tmp_path):
    evidence = counted(tmp_path / "c", BLOCK)
    assert scores(evidence, [1, 5, 5, 5, 5, 5]) == [[0] * 5]
    assert scores(evidence, [1, 5, 5, 5, 5]) == [[0, 24, 0, 0, 0]]


def test_without_a_history_there_is_nothing(tmp_path):
    assert scores(counted(tmp_path / "c", BLOCK), [], [1]) == [[0] * 5, [0, 120, 0, 0, 0]]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((np.array([1, 2]), np.array([3])), "add up to 3"),
        ((np.array([0, 2]), np.array([2])), r"1\.\.5"),
        ((np.array([1, 6]), np.array([2])), r"1\.\.5"),
    ],
)
def test_refuses_blocks_that_do_not_fit(tmp_path, block, message):
    with pytest.raises(ValueError, match=message):
        counted(tmp_path / "c", block)
