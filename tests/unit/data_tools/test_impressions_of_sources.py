from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_tools.histories import Histories
from data_tools.impressions import context_of, group_impressions, heads_of
from data_tools.indexing import indexed
from data_tools.source import IMPRESSION_COLUMNS
from data_tools.stage import BUCKETS, Fragments

COLUMNS = indexed(IMPRESSION_COLUMNS)
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 3), st.none() | st.sampled_from(["", "x", "y"])
    ),
    max_size=30,
)


def group(rows: list[tuple[str, int, int, str | None]]) -> Histories:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(COLUMNS)
    return group_impressions(pa.table(columns, schema=COLUMNS))


@given(ROWS)
def test_requests_are_numbered_as_the_definition_has_it(rows: list[tuple[str, int, int, str | None]]) -> None:
    """Within a user from 0, as they begin; rows without a request id belong together when their times are equal."""
    shown = group(rows)
    expected = []
    for user in shown.user_ids.to_pylist():
        numbers: dict[object, int] = {}
        for _, _, time, request in sorted((row for row in rows if row[0] == user), key=lambda row: row[2]):
            key = ("at", time) if request is None else ("called", request)
            expected.append(numbers.setdefault(key, len(numbers)))
    assert shown.rows["request"].to_pylist() == expected
    assert shown.rows.schema.names == ["item", "timestamp", "request"]
    assert shown.rows["request"].type == pa.int32()


def test_users_have_requests_of_their_own() -> None:
    assert group([("a", 1, 5, "x"), ("b", 1, 1, "x"), ("a", 2, 5, "x")]).rows["request"].to_pylist() == [0, 0, 0]


def test_labels_and_context_are_told_apart_by_their_prefixes() -> None:
    names = [("label_click", pa.float32()), ("label_like", pa.float32()), ("shown_position", pa.string())]
    staged = Fragments(Path(), "impressions", pa.schema([*COLUMNS, *names]), np.zeros(BUCKETS, np.int64), 0)
    assert (heads_of(staged), context_of(staged)) == (["click", "like"], ["position"])
