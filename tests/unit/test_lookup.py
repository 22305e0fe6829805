"""Places in an ascending array, by a search or by a table."""

import numpy as np
import pytest

from transrec.lookup import places_of

KEYS = np.array([2, 3, 7, 19])


@pytest.mark.parametrize("times", [1, 40], ids=["search", "table"])
def test_places_are_those_of_the_same_numbers(times):
    wanted = np.tile([7, 0, 19, 4, 2], times)
    assert places_of(wanted, KEYS, 20).tolist() == [2, -1, 3, -1, 0] * times


@pytest.mark.parametrize("times", [1, 40], ids=["search", "table"])
def test_nothing_is_in_an_empty_array(times):
    assert places_of(np.tile([7, 0], times), KEYS[:0], 20).tolist() == [-1, -1] * times
