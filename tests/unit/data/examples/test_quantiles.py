import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_threads import on_ranks

from transrec.data.examples.quantiles import order_statistics
from transrec.data.peers import Alone, Peers

ANY = st.integers(-(2**63), 2**63 - 1)
blocks_of = st.lists(st.lists(ANY, max_size=9) | st.lists(st.integers(0, 3), max_size=9), max_size=6).filter(any)


@given(blocks_of, st.data())
def test_it_is_the_number_at_that_place_of_all_sorted(blocks: list[list[int]], data: st.DataObject) -> None:
    everything = sorted(number for block in blocks for number in block)
    shares = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=3))
    found = order_statistics(lambda: (np.array(block, np.int64) for block in blocks), shares, Alone())
    assert found == [everything[int(share * (len(everything) - 1))] for share in shares]


@pytest.mark.parametrize("ranks", [2, 5])
def test_the_numbers_of_all_ranks_count(ranks: int) -> None:
    """One rank has none, and the others have the numbers from -6 to 5 between them."""

    def own(peers: Peers) -> list[np.ndarray]:
        return [np.arange(-6, 6)[peers.rank - 1 :: peers.size - 1]] if peers.rank else []

    found = on_ranks(ranks, lambda peers: order_statistics(lambda: own(peers), [0.0, 0.5, 1.0], peers))
    assert found == [[-6, -1, 5]] * ranks


def test_no_numbers_have_no_order() -> None:
    assert on_ranks(2, lambda peers: order_statistics(list, [0.5], peers)) == [None, None]
