"""Users to recommend for, read from JSON lines."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transrec.config import ConfigError
from transrec.errors import TransRecError
from transrec.runs.histories import ids_of, read_histories

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=4)), max_size=4), st.booleans())
def test_what_is_written_is_read(users: list[tuple[str, list[str]]], escaped: bool) -> None:
    lines = [json.dumps({"user": user, "history": ids}, ensure_ascii=escaped) for user, ids in users]
    found = list(read_histories(io.BytesIO("\n".join(lines).encode()), "x"))
    assert [(one.user, one.history) for one in found] == users


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_read_or_refused_in_one_sentence(line: bytes) -> None:
    told, found = "x, line 1", []
    try:
        found = list(read_histories(io.BytesIO(line), "x"))
    except TransRecError as error:
        told = str(error)
    assert told.startswith("x, line ")
    assert "\n" not in told
    assert all(isinstance(item, str) for one in found for item in one.history)


@given(JSON)
def test_only_a_list_of_ids_is_a_history(value: Any) -> None:
    good = isinstance(value, list) and all(type(item) in (str, int) for item in value)
    try:
        found = ids_of(value, "x")
    except ConfigError:
        assert not good
    else:
        assert good
        assert found == [str(item) for item in value]


@pytest.mark.parametrize("value", ["12", {"1": 2}, 12, None, [1.0], [True], [None], [[1]]])
def test_what_only_looks_like_a_list_of_ids_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="x: "):
        ids_of(value, "x")


@pytest.mark.parametrize("time", [-1, 1_573_000_000_000, 10**40])
def test_a_time_that_is_no_date_is_refused_with_its_line(time: int) -> None:
    line = json.dumps({"user": "ann", "history": ["1"], "time": time}).encode()
    with pytest.raises(ConfigError, match=rf'x, line 1, user "ann": time {str(time)[:20]}: give whole seconds'):
        list(read_histories([line], "x"))


def test_candidates_that_are_no_list_are_called_so() -> None:
    line = json.dumps({"history": ["1"], "candidates": "12"}).encode()
    with pytest.raises(ConfigError, match='candidates must be a list of item ids, found "12"'):
        list(read_histories([line], "x"))


def test_a_key_of_requests_to_a_service_is_refused_as_it_would_do_nothing() -> None:
    line = json.dumps({"history": ["a"], "k": 5}).encode()
    with pytest.raises(ConfigError, match="x, line 1: 'k' is for requests to `transrec serve`: use --top"):
        list(read_histories([line], "x"))


def test_a_line_may_exclude_items_and_filter_by_columns() -> None:
    [found] = read_histories([b'{"history": [1], "exclude": [2, "a"], "filters": {"brand": ["x", "y"]}}'], "x")
    assert (found.exclude, found.filters) == (["2", "a"], {"brand": ["x", "y"]})


@pytest.mark.parametrize("value", [["brand"], {"brand": "x"}, {"brand": []}, {"brand": [1]}, "x", None])
def test_filters_that_are_no_lists_of_values_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="x, line 1, user 1: `filters` gives each column a list of texts, found"):
        list(read_histories([json.dumps({"history": ["1"], "filters": value}).encode()], "x"))


@pytest.mark.parametrize("value", ["true", 1, None])
def test_repeats_are_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match="x, line 1, user 1: `repeats` is true or false, found"):
        list(read_histories([json.dumps({"history": ["1"], "repeats": value}).encode()], "x"))


def test_a_line_that_has_no_repeats_takes_those_of_the_command() -> None:
    lines = [b'{"history": []}', b'{"history": [], "repeats": false}', b'{"history": [], "repeats": true}']
    for default in (False, True):
        assert [one.repeats for one in read_histories(lines, "x", default)] == [default, False, True]


def test_a_key_that_is_given_twice_is_refused() -> None:
    lines = [b'{"user": "ann", "history": ["1"]}', b'{"user": "eve", "history": ["1"], "history": ["2"]}']
    with pytest.raises(TransRecError, match=r"x, line 2: not JSON \(key 'history' is given twice\)"):
        list(read_histories(lines, "x"))


@pytest.mark.parametrize(("key", "meant"), [("contxt", "context"), ("candidats", "candidates"), ("usr", "user")])
def test_a_misspelt_key_is_refused_as_its_value_would_not_count(key: str, meant: str) -> None:
    line = json.dumps({"history": ["a"], key: ["b"]}).encode()
    with pytest.raises(ConfigError, match=f"x, line 1: '{key}' is not a known key: did you mean '{meant}'"):
        list(read_histories([line], "x"))


def test_other_keys_may_be_there() -> None:
    [found] = read_histories([b'{"user": "u", "history": [], "users": 1, "session": "s"}'], "x")
    assert found.user == "u"
