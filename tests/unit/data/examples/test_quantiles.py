import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.examples.quantiles import order_statistics

ANY = st.integers(-(2**63), 2**63 - 1)
blocks_of = st.lists(st.lists(ANY, max_size=9) | st.lists(st.integers(0, 3), max_size=9), max_size=6).filter(any)


@given(blocks_of, st.data())
def test_it_is_the_number_at_that_place_of_all_sorted(blocks: list[list[int]], data: st.DataObject) -> None:
    everything = sorted(number for block in blocks for number in block)
    places = data.draw(st.lists(st.integers(0, len(everything) - 1), min_size=1, max_size=3))
    found = order_statistics(lambda: (np.array(block, np.int64) for block in blocks), places)
    assert found == [everything[place] for place in places]
