import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.config import validate
from transrec.features.vocabulary import Bands, Buckets, Values

TEXTS = st.lists(st.none() | st.text(max_size=3), max_size=20)


def strings(*values: str | None) -> pa.StringArray:
    return pa.array(values, pa.string())


def test_values_have_a_row_each_in_the_order_of_the_strings() -> None:
    known = Values.of([strings("b", "a", None), strings("b", "Z")])
    assert known.values == ["Z", "a", "b"]
    assert known.size == 3
    assert known.rows(strings("a", "b", "Z", "a")).tolist() == [2, 3, 1, 2]


def test_unseen_and_null_values_have_row_0() -> None:
    assert Values(values=["a"]).rows(strings("a", "b", None, "")).tolist() == [1, 0, 0, 0]
    assert Values.of([]).rows(strings("a", None)).tolist() == [0, 0]


@given(TEXTS, TEXTS)
def test_rows_lead_back_to_their_values(training: list[str | None], asked: list[str | None]) -> None:
    known = Values.of([strings(*training)])
    rows = known.rows(strings(*asked))
    assert rows.dtype == np.int64
    for value, row in zip(asked, rows, strict=True):
        assert row == 0 if value is None or value not in training else known.values[row - 1] == value


def test_a_band_holds_its_upper_end() -> None:
    bands = Bands(ends=[18, 25.5])
    assert bands.size == 3
    assert bands.rows(strings("-3", "18", "18.01", "25.5", "26", "1e9")).tolist() == [1, 1, 2, 2, 3, 3]


def test_what_is_no_number_is_in_no_band() -> None:
    assert Bands(ends=[18]).rows(strings("old", "", None, "nan", "17")).tolist() == [0, 0, 0, 0, 1]


ENDS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5, unique=True).map(sorted)


@given(ENDS, st.floats(allow_nan=False))
def test_a_number_is_above_the_ends_of_the_bands_before_its_own(ends: list[float], number: float) -> None:
    [row] = Bands(ends=ends).rows(strings(repr(number)))
    assert row == 1 + sum(end < number for end in ends)


def test_buckets_are_chosen_by_the_value_alone() -> None:
    """By a hash that is the same in every process: the weights of a run belong to it."""
    buckets = Buckets(size=7)
    rows = buckets.rows(strings("a", None, "b", "a", ""))
    assert rows[0] == rows[3] != 0
    assert rows[1] == 0
    assert rows[4] != 0
    assert buckets.rows(strings("user-1", "user-2", "user-3", "user-4")).tolist() == [6, 4, 7, 5]


def test_buckets_are_filled_evenly() -> None:
    """Ten thousand values in ten buckets: four standard errors are 120."""
    counts = np.bincount(Buckets(size=10).rows(strings(*(f"u{n}" for n in range(10_000)))))
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - 1000) < 4 * 30)


@pytest.mark.parametrize("known", [Values(values=["a", "b"]), Bands(ends=[1.0]), Buckets(size=3)])
def test_a_vocabulary_is_the_same_after_writing_and_after_sending(known) -> None:
    asked = strings("a", "b", "0", None)
    expected = known.rows(asked).tolist()
    for other in (validate(type(known), known.model_dump(mode="json")), pickle.loads(pickle.dumps(known))):
        assert other == known
        assert other.rows(asked).tolist() == expected


@pytest.mark.parametrize("known", [Values(values=["a"]), Bands(ends=[1.0]), Buckets(size=3)])
def test_nothing_has_no_rows(known) -> None:
    assert known.rows(strings()).tolist() == []
    assert known.rows(strings(None, None)).tolist() == [0, 0]
