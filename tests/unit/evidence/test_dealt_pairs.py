"""Pairs come back from their files in the order in which they were dealt."""

import numpy as np
import pytest

from transrec.evidence.dealt_pairs import deal, read_dealt


@pytest.mark.parametrize("at_once", [3, 100])
@pytest.mark.parametrize("ends", [[10], [3, 7, 10], [0, 1, 10]])
def test_each_range_has_its_pairs_in_order(tmp_path, ends, at_once):
    generator = np.random.default_rng(0)
    table = generator.integers(0, 10, (100, 3))
    deal(tmp_path, (tuple(table[a : a + at_once].T) for a in range(0, 100, at_once)), np.array(ends))
    first = 0
    for number, end in enumerate(ends):
        mine = table[(table[:, 0] >= first) & (table[:, 0] < end)]
        np.testing.assert_array_equal(np.stack(read_dealt(tmp_path, number, 3), 1), mine)
        first = end


def test_ranges_without_pairs_are_empty(tmp_path):
    deal(tmp_path, iter([]), np.array([4, 8]))
    assert [len(column) for column in read_dealt(tmp_path, 1, 2)] == [0, 0]
