from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_tools.reading.typed_columns import label_columns, to_impressions, to_interactions, to_strings
from data_tools.rejects import Reason, Reject
from data_tools.sources.source import INTERACTION_COLUMNS, Batch, SourceError


def interactions(**columns: list) -> tuple[list[dict], list[Reject]]:
    size = len(next(iter(columns.values())))
    given = {"user_id": ["u"] * size, "item_id": ["i"] * size, "timestamp": ["1"] * size, **columns}
    rejects: list[Reject] = []
    batch = Batch("f", pa.array(range(10, 10 + size)), pa.RecordBatch.from_pydict(given))
    typed = to_interactions(batch, rejects.append)
    assert typed.rows.schema == INTERACTION_COLUMNS
    assert len(typed.lines) == len(typed.rows)
    return typed.rows.to_pylist(), rejects


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12", 12), (" 12 ", 12), ("-3", -3), ("12.9", 12), ("8.8125e8", 881250000), ("9007199254740993", 2**53 + 1)],
)
def test_timestamps(text: str, seconds: int) -> None:
    rows, rejects = interactions(timestamp=[text, "1.5"])
    assert rows[0]["timestamp"] == seconds
    assert rejects == []


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1e40", "0x10", "1 2", None])
def test_bad_timestamp_names_line_and_value(text: str | None) -> None:
    rows, rejects = interactions(timestamp=["7", text, "8"])
    assert [row["timestamp"] for row in rows] == [7, 8]
    assert rejects == [Reject("f", 11, Reason.BAD_TIMESTAMP, f"timestamp is {text!r}")]


def test_timestamp_columns_of_parquet() -> None:
    rows, _ = interactions(timestamp=[datetime(2001, 9, 9, 1, 46, 40, 999, tzinfo=UTC)])
    assert rows[0]["timestamp"] == 1_000_000_000


def test_ratings_may_be_absent_or_empty_but_not_wrong() -> None:
    assert interactions(user_id=["u"])[0][0]["rating"] is None
    rows, rejects = interactions(rating=["4.5", "", "good", "nan", "1e99"])
    assert [row["rating"] for row in rows] == [4.5, None]
    assert [(reject.line, reject.reason) for reject in rejects] == [(line, Reason.BAD_RATING) for line in (12, 13, 14)]


def test_integer_ids_become_strings_and_empty_ids_are_rejected() -> None:
    rows, _ = interactions(user_id=[1, 2], item_id=[30, 40])
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("1", "30"), ("2", "40")]
    _, rejects = interactions(user_id=["", "u"], item_id=["i", " "])
    assert [(reject.line, reject.detail) for reject in rejects] == [(10, "user_id is ''"), (11, "item_id is ' '")]


def test_a_row_is_rejected_once() -> None:
    _, rejects = interactions(user_id=[""], timestamp=["x"])
    assert [reject.reason for reject in rejects] == [Reason.EMPTY_ID]


def test_nested_column_is_an_error_naming_it() -> None:
    batch = Batch("f", pa.array([1]), pa.RecordBatch.from_pydict({"user_id": ["u"], "tags": [[{"a": 1}]]}))
    with pytest.raises(SourceError, match="f, column tags"):
        to_strings(batch, "user_id", lambda reject: None)


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
    "values", [["1", "0", "", " 1 "], ["1.0", "0e5", None, "+1"], [1, 0, None, 1], [True, False, None, True]]
)
def test_a_label_is_0_or_1_or_was_not_observed(values: list) -> None:
    rows, rejects = impressions(click=values)
    assert [row["label_click"] for row in rows] == [1.0, 0.0, None, 1.0]
    assert rejects == []


@pytest.mark.parametrize("value", ["2", "yes", "-1", "0.5", "nan", "1e-9"])
def test_a_label_of_another_value_names_line_and_value(value: str) -> None:
    rows, rejects = impressions(label_buy=["1", value])
    assert len(rows) == 1
    assert rejects == [Reject("f", 11, Reason.BAD_LABEL, f"label_buy is {value!r}")]


def test_numbers_as_labels_are_held_to_the_same() -> None:
    assert impressions(click=[0.5, 1.0, float("nan")])[1] == [
        Reject("f", 10, Reason.BAD_LABEL, "click is 0.5"),
        Reject("f", 12, Reason.BAD_LABEL, "click is nan"),
    ]
