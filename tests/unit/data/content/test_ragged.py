import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.content.ragged import Ragged, padded_lengths

lengths_and_budget = st.tuples(st.lists(st.integers(0, 60), min_size=1, max_size=80), st.integers(1, 400))


def chunks_of(lengths: list[int], budget: int, numbers: list[int] | None = None) -> tuple:
    chosen = np.array(numbers if numbers is not None else range(1, len(lengths) + 1), np.int64)
    return Ragged(np.cumsum([0, *lengths])).chunks(chosen, budget)


@given(lengths_and_budget)
def test_chunks_hold_every_position_of_every_sequence_that_has_some(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    rows, chunks = chunks_of(lengths, budget)
    assert sorted(rows) == [i for i, length in enumerate(lengths) if length]
    offsets = np.cumsum([0, *lengths])
    places = [where[real].tolist() for chunk, reals in chunks for where, real in zip(chunk, reals, strict=True)]
    assert places == [list(range(offsets[row], offsets[row + 1])) for row in rows]


@given(lengths_and_budget)
def test_a_chunk_keeps_to_the_budget_unless_it_is_one_sequence(case: tuple[list[int], int]) -> None:
    for where, _ in chunks_of(*case)[1]:
        assert len(where) == 1 or where.size <= case[1]


@given(lengths_and_budget)
def test_chunks_of_one_length_but_the_last_are_full(case: tuple[list[int], int]) -> None:
    shapes = [where.shape for where, _ in chunks_of(*case)[1]]
    for (n, length), (_, following) in itertools.pairwise(shapes):
        assert following < length or (n + 1) * length > case[1]


@given(lengths_and_budget, st.data())
def test_a_sequence_is_padded_alike_in_any_company(case: tuple[list[int], int], data: st.DataObject) -> None:
    lengths, budget = case
    everyone = [i + 1 for i, length in enumerate(lengths) if length]
    some = data.draw(st.lists(st.sampled_from(everyone), unique=True)) if everyone else []

    def padded(numbers: list[int]) -> dict[int, int]:
        rows, chunks = chunks_of(lengths, budget, numbers)
        shapes = [where.shape for where, _ in chunks]
        each = [length for n, length in shapes for _ in range(n)]
        return {numbers[row]: length for row, length in zip(rows, each, strict=True)}

    alone, together = padded(some), padded(everyone)
    assert alone == {number: together[number] for number in some}


def test_a_padded_length_is_four_fifths_of_the_next() -> None:
    assert padded_lengths(30).tolist() == [4, 5, 7, 9, 12, 15, 19, 24, 30]


def test_a_chunk_has_four_positions_at_least_unless_nothing_is_as_long() -> None:
    assert [len(where[0]) for where, _ in chunks_of([3, 2, 9, 1], 1)[1]] == [9, 4, 4, 4]
    assert padded_lengths(3).tolist() == [3]
    assert padded_lengths(1).tolist() == [1], "what is pooled has one position, and nothing multiplies it"
