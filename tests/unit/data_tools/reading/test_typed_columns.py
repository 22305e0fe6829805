from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from data_tools.reading.typed_columns import label_columns, to_impressions, to_interactions, to_strings
from data_tools.rejects import Reason, Reject
from data_tools.source import INTERACTION_COLUMNS, Batch, SourceError

EXPECTED_LABELS = "expected 1 or true, 0 or false, or nothing where it was not observed"


def interactions(unit: str = "s", **columns: list) -> tuple[list[dict], list[Reject]]:
    size = len(next(iter(columns.values())))
    given = {"user_id": ["u"] * size, "item_id": ["i"] * size, "timestamp": ["1"] * size, **columns}
    rejects: list[Reject] = []
    batch = Batch("f", pa.array(range(10, 10 + size)), pa.RecordBatch.from_pydict(given))
    typed = to_interactions(batch, rejects.append, unit)
    assert typed.rows.schema == INTERACTION_COLUMNS
    assert len(typed.lines) == len(typed.rows)
    return typed.rows.to_pylist(), rejects


@pytest.mark.parametrize(
    ("text", "seconds"), [("12", 12), (" 12 ", 12), ("+12", 12), ("-3", -3), ("12.9", 12), ("8.8125e8", 881250000)]
)
def test_timestamps(text: str, seconds: int) -> None:
    rows, rejects = interactions(timestamp=[text, "1.5"])
    assert rows[0]["timestamp"] == seconds
    assert rejects == []


def test_integer_texts_are_exact() -> None:
    rows, _ = interactions("ns", timestamp=["999999999999999999"])  # as a double it would be 1000000000000000000
    assert rows[0]["timestamp"] == 999_999_999


@pytest.mark.parametrize(
    "value", [1_500_000_000_999, "1500000000999", 1.5e15, "-1500000000999000", 1_500_000_000_999_999_999]
)
def test_a_time_in_another_unit_is_rejected_and_told_so(value: object) -> None:
    rows, rejects = interactions(timestamp=[value, value])
    assert rows == []
    assert {reject.reason for reject in rejects} == {Reason.BAD_TIMESTAMP}
    assert all("in s; give its unit with --timestamp-unit" in reject.detail for reject in rejects)


def test_the_last_second_of_the_year_9999_is_a_time() -> None:
    rows, rejects = interactions(timestamp=[253_402_300_799, 253_402_300_800])
    assert [row["timestamp"] for row in rows] == [253_402_300_799]
    assert [reject.line for reject in rejects] == [11]


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1e40", "0x10", "1 2", None])
def test_bad_timestamp_names_line_and_value(text: str | None) -> None:
    rows, rejects = interactions(timestamp=["7", text, "8"])
    assert [row["timestamp"] for row in rows] == [7, 8]
    assert rejects == [Reject("f", 11, Reason.BAD_TIMESTAMP, f"timestamp is {text!r}")]


def test_a_text_in_another_format_than_the_one_given_names_that_one() -> None:
    rows, rejects = interactions("%Y-%m-%d", timestamp=["2024-05-31", "31.05.2024", ""])
    assert len(rows) == 1
    assert [reject.detail for reject in rejects] == [
        "timestamp is '31.05.2024', not in the time format '%Y-%m-%d'",
        "timestamp is ''",
    ]


def test_timestamp_columns_of_parquet() -> None:
    rows, _ = interactions(timestamp=[datetime(2001, 9, 9, 1, 46, 40, 999, tzinfo=UTC)])
    assert rows[0]["timestamp"] == 1_000_000_000


def test_ratings_may_be_absent_or_empty_but_not_wrong() -> None:
    assert interactions(user_id=["u"])[0][0]["rating"] is None
    rows, rejects = interactions(rating=["4.5", "", "good", "nan", "1e99"])
    assert [row["rating"] for row in rows] == [4.5, None]
    assert [(reject.line, reject.reason) for reject in rejects] == [(line, Reason.BAD_RATING) for line in (12, 13, 14)]


def test_a_missing_number_is_no_rating() -> None:
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        rows, rejects = interactions(rating=pa.array([4.5, float("nan"), None], pa.float64()).cast(kind))
        assert [row["rating"] for row in rows] == [4.5, None, None]
        assert rejects == []
    assert interactions(rating=[float("inf")])[1] == [Reject("f", 10, Reason.BAD_RATING, "rating is inf")]


def test_true_and_false_are_ratings_of_1_and_0() -> None:
    assert [row["rating"] for row in interactions(rating=[True, False, None])[0]] == [1, 0, None]


def test_integer_ids_become_strings_and_empty_ids_are_rejected() -> None:
    rows, _ = interactions(user_id=[1, 2], item_id=[30, 40])
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("1", "30"), ("2", "40")]
    _, rejects = interactions(user_id=["", "u"], item_id=["i", " "])
    assert [(reject.line, reject.detail) for reject in rejects] == [(10, "user_id is ''"), (11, "item_id is ' '")]


def test_a_row_is_rejected_once() -> None:
    _, rejects = interactions(user_id=[""], timestamp=["x"])
    assert [reject.reason for reject in rejects] == [Reason.EMPTY_ID]


def strings(**columns: list) -> tuple[list[dict], list[Reject]]:
    """Rows as strings, with the ids in `user_id`."""
    rejects: list[Reject] = []
    size = len(next(iter(columns.values())))
    batch = Batch("f", pa.array(range(1, size + 1)), pa.RecordBatch.from_pydict(columns))
    return to_strings(batch, "user_id", rejects.append).rows.to_pylist(), rejects


def test_nested_columns_become_json() -> None:
    rows, _ = strings(
        user_id=["u"],
        tags=[[{"a": 1}]],
        size=[{"cm": 1.5, "day": date(2024, 5, 31)}],
        empty=pa.array([None], pa.list_(pa.int8())),
    )
    assert rows == [{"user_id": "u", "tags": '[{"a": 1}]', "size": '{"cm": 1.5, "day": "2024-05-31"}', "empty": ""}]


def test_ids_as_doubles_are_the_integers_they_were() -> None:
    """As pandas writes a column of integers in which one is missing."""
    rows, rejects = interactions(user_id=[123_456_789_012.0, float("nan"), 7.5, -0.0], item_id=[1e15, 1.0, 2.0, 3.0])
    assert [(row["user_id"], row["item_id"]) for row in rows] == [
        ("123456789012", "1000000000000000"), ("7.5", "2"), ("0", "3")
    ]  # fmt: skip
    assert [(reject.line, reject.reason) for reject in rejects] == [(11, Reason.EMPTY_ID)]


@pytest.mark.parametrize(
    ("kind", "ids", "texts"),
    [
        (pa.decimal128(10, 2), ["7.00", "7.50", "100.00", "-0.25"], ["7", "7.5", "100", "-0.25"]),
        (
            pa.decimal256(38, 0),
            ["7", "70", "0", "12345678901234567890123"],
            ["7", "70", "0", "12345678901234567890123"],
        ),
        (pa.decimal128(5, -2), ["700", "0", "1000", "99900"], ["700", "0", "1000", "99900"]),
    ],
)
def test_ids_as_decimals_are_the_numbers_they_are(kind: pa.DataType, ids: list[str], texts: list[str]) -> None:
    """As databases write numbers."""
    column = pa.array([Decimal(number) for number in ids], kind)
    rows, rejects = strings(user_id=column, height=column)
    assert [(row["user_id"], row["height"]) for row in rows] == [(text, text) for text in texts]
    assert not rejects


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_date_that_python_lacks_is_rejected_as_a_number(unit: str) -> None:
    rows, rejects = interactions(timestamp=pa.array([2**62 + 1, 1], pa.timestamp(unit)))
    assert len(rows) == 1
    assert rejects == [Reject("f", 10, Reason.BAD_TIMESTAMP, f"timestamp is {2**62 + 1}")]


@pytest.mark.parametrize(
    ("kind", "exact"), [(pa.float16(), 2**11 - 1), (pa.float32(), 2**24 - 1), (pa.float64(), 2**53 - 1)]
)
def test_a_float_that_cannot_tell_two_ids_apart_is_no_id(kind: pa.DataType, exact: int) -> None:
    ids = pa.array([float(exact), float(exact + 1), float("inf")], pa.float64()).cast(kind)
    rows, rejects = interactions(item_id=ids)
    assert [row["item_id"] for row in rows] == [str(exact)]
    assert [(reject.line, reject.reason) for reject in rejects] == [(11, Reason.BAD_ID), (12, Reason.BAD_ID)]
    _, rejects = strings(user_id=ids)
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, Reason.BAD_ID), (3, Reason.BAD_ID)]


def test_nan_elsewhere_is_empty() -> None:
    rows, _ = strings(user_id=["u", "v"], age=[30.0, float("nan")], height=pa.array([1.1, None], pa.float32()))
    assert rows == [{"user_id": "u", "age": "30", "height": "1.1"}, {"user_id": "v", "age": "", "height": ""}]


@pytest.mark.parametrize("ids", [[["u"]], [{"a": 1}], [b"\xff"]])
def test_ids_that_are_no_values_are_an_error_naming_the_column(ids: list) -> None:
    with pytest.raises(SourceError, match="f, column user_id: "):
        strings(user_id=ids)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.decimal128(3, 1)])
def test_columns_that_are_numbers_in_other_words(kind: pa.DataType) -> None:
    rows, rejects = interactions(rating=pa.array(["4.5", None]).cast(kind), timestamp=pa.array([7, 8], pa.uint64()))
    assert [(row["timestamp"], row["rating"]) for row in rows] == [(7, 4.5), (8, None)]
    assert rejects == []


@pytest.mark.parametrize("name", ["user_id", "timestamp", "rating"])
def test_a_column_that_is_no_value_is_an_error_naming_it(name: str) -> None:
    with pytest.raises(SourceError, match=f"f, column {name}: "):
        interactions(**{name: [{"x": 1}]})


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["click", "user_id"], {"click": "click"}),
        (["click", "label_like", "label_click"], {"like": "label_like", "click": "label_click"}),
        (["clicks", "user_id"], {}),
    ],
)
def test_labels_are_found_among_the_columns(names: list[str], labels: dict[str, str]) -> None:
    assert label_columns(names) == labels


def impressions(**columns: list) -> tuple[list[dict], list[Reject]]:
    size = len(next(iter(columns.values())))
    given = {"user_id": ["u"] * size, "item_id": ["i"] * size, "timestamp": ["1"] * size, **columns}
    rejects: list[Reject] = []
    batch = Batch("f", pa.array(range(10, 10 + size)), pa.RecordBatch.from_pydict(given))
    return to_impressions(batch, rejects.append).rows.to_pylist(), rejects


@pytest.mark.parametrize(
    "values",
    [
        ["1", "0", "", " 1 "],
        ["1.0", "0e5", None, "+1"],
        ["True", "false", "", " TRUE "],
        [1, 0, None, 1],
        [True, False, None, True],
    ],
)
def test_a_label_is_0_or_1_or_was_not_observed(values: list) -> None:
    rows, rejects = impressions(click=values)
    assert [row["label_click"] for row in rows] == [1.0, 0.0, None, 1.0]
    assert rejects == []


@pytest.mark.parametrize("value", ["2", "yes", "-1", "0.5", "nan", "1e-9"])
def test_a_label_of_another_value_names_line_and_value(value: str) -> None:
    rows, rejects = impressions(label_buy=["1", value])
    assert len(rows) == 1
    assert rejects == [Reject("f", 11, Reason.BAD_LABEL, f"label_buy is {value!r}, {EXPECTED_LABELS}")]


def test_numbers_as_labels_are_held_to_the_same() -> None:
    rows, rejects = impressions(click=[0.5, 1.0, float("nan")])
    assert [row["label_click"] for row in rows] == [1.0, None]
    assert rejects == [Reject("f", 10, Reason.BAD_LABEL, f"click is 0.5, {EXPECTED_LABELS}")]
