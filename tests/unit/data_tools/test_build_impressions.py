"""Builds of sources that know what users were shown."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_tools.build
from data_tools.build import build
from data_tools.errors import DataToolsError
from data_tools.filters import Filters
from data_tools.shard_reader import read_block_table, read_blocks
from data_tools.source import SourceError
from data_tools.sources.tables import TablesSource
from data_tools.user_shards import cut_users
from data_tools.verify import verify
from transrec.data.shards.schema import ShardIndex

WriteTables = Callable[..., Path]
TOMORROW = datetime(1970, 1, 2, tzinfo=UTC)
HEADER = "user_id\titem_id\ttimestamp\tclick\n"


def users_of(folder: Path) -> dict[str, dict[str, Any]]:
    users = [user for block in read_blocks(folder) for user in block.users.to_pylist()]
    return {user.pop("user_id"): user for user in users}


def test_users_who_only_were_shown_something_are_in_the_set(shown_shards: Path) -> None:
    """Those with impressions alone have an empty history, those with interactions alone were shown nothing."""
    assert verify(shown_shards) == []
    users = users_of(shown_shards)
    assert users["u1"] == {
        "items": [1, 2, 3],
        "timestamps": [10, 20, 20],
        "ratings": [5.0, 4.0, 1.5],
        "shown": [1, 3, 2],
        "shown_timestamps": [15, 15, 25],
        "shown_requests": [0, 0, 1],
        "label_click": [0.0, 1.0, 0.0],
        "shown_position": ["1", "2", "1"],
        "age": "31",
    }
    assert users["u2"]["shown"] == users["u2"]["shown_position"] == []
    assert (users["u3"]["shown"], users["u3"]["label_click"], users["u3"]["shown_position"]) == ([1], [None], [None])
    assert (users["u4"]["items"], users["u4"]["shown"], users["u4"]["age"]) == ([], [3], None)


def test_the_index_counts_impressions_and_names_their_columns(shown_shards: Path) -> None:
    index = ShardIndex.load(shown_shards)
    assert (index.heads, index.context_columns, index.user_columns) == (["click"], ["position"], ["age"])
    assert (index.counts.impressions, index.counts.interactions, index.counts.users) == (5, 5, 4)
    [shown] = read_block_table(shown_shards)["shown_lengths"].to_pylist()
    assert dict(zip(users_of(shown_shards), shown, strict=True)) == {"u1": 3, "u2": 0, "u3": 1, "u4": 1}


def test_a_set_without_impressions_has_none_of_their_columns(shards: Path) -> None:
    assert all(
        block.users.schema.names == ["user_id", "items", "timestamps", "ratings", "age"]
        for block in read_blocks(shards)
    )
    assert read_block_table(shards)["shown_lengths"].to_pylist() == [[]]


def test_rows_that_cannot_be_used_are_rejected_with_file_line_and_reason(
    write_tables: WriteTables, tmp_path: Path
) -> None:
    rows = "u\ta\t1\t1\nu\tzz\t1\t0\n\ta\t1\t0\nu\ta\tnow\t0\nu\ta\t1\tyes\nu\ta\t1\nu\ta\t1\t0.5\n"
    index = build(TablesSource(write_tables(impressions=HEADER + rows)), "tables", tmp_path / "out")
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sorted((row["line"], row["reason"], row["file"]) for row in rejects) == [
        (3, "unknown_item", "impressions.tsv"),
        (4, "empty_id", "impressions.tsv"),
        (5, "bad_timestamp", "impressions.tsv"),
        (6, "bad_label", "impressions.tsv"),
        (7, "wrong_field_count", "impressions.tsv"),
        (8, "bad_label", "impressions.tsv"),
    ]
    assert index.counts.impressions == 1


def test_impressions_of_which_none_is_usable_leave_empty_lists(write_tables: WriteTables, tmp_path: Path) -> None:
    folder = write_tables(impressions=HEADER + "u1\tzz\t1\t0\n")
    index = build(TablesSource(folder), "tables", tmp_path / "out")
    assert (index.heads, index.counts.impressions) == (["click"], 0)
    assert verify(tmp_path / "out") == []


def test_impressions_alone_are_not_enough(write_tables: WriteTables, tmp_path: Path) -> None:
    """Nor is it the filters' fault if they drop these."""
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\n", impressions=HEADER + "u1\ta\t1\t0\n")
    for filters in (Filters(), Filters(since=TOMORROW)):
        with pytest.raises(DataToolsError, match="no usable interaction"):
            build(TablesSource(folder), "tables", tmp_path / "out", filters=filters)


@pytest.mark.parametrize(
    ("tables", "name"),
    [
        ({"users": "user_id\tlabel_click\nu1\t1\n"}, "label_click"),
        ({"impressions": "user_id\titem_id\ttimestamp\tclick\trequests\nu1\ta\t1\t0\t5\n"}, "shown_requests"),
    ],
)
def test_columns_that_would_have_one_name_are_refused(
    write_tables: WriteTables, tmp_path: Path, tables: dict[str, str], name: str
) -> None:
    folder = write_tables(**({"impressions": HEADER + "u1\ta\t1\t0\n"} | tables))
    with pytest.raises(SourceError, match=f"several columns of .* would be called {name}: rename them"):
        build(TablesSource(folder), "tables", tmp_path / "out")


def test_a_block_is_cut_at_its_users_or_at_its_impressions(
    write_tables: WriteTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"u{user}\ta\t{time}\t0\n" for user in range(40) for time in range(user % 5 * 3))
    likes = "".join(f"u{user}\tb\t1\n" for user in range(40))
    folder = write_tables(interactions=f"user_id\titem_id\ttimestamp\n{likes}", impressions=HEADER + rows)
    monkeypatch.setattr(data_tools.build, "BLOCK_USERS", 6)
    monkeypatch.setattr(data_tools.build, "BLOCK_IMPRESSIONS", 20)
    build(TablesSource(folder), "tables", tmp_path / "out")
    assert verify(tmp_path / "out") == []
    blocks = [block.shown_lengths.to_pylist() for block in read_blocks(tmp_path / "out")]
    assert all(len(block) <= 6 and sum(block) <= 20 for block in blocks)
    nexts = [after[0] for after in blocks[1:]]
    assert all(len(block) == 6 or sum(block) + first > 20 for block, first in zip(blocks, nexts, strict=False))
    assert sum(map(sum, blocks)) == 8 * 3 * (1 + 2 + 3 + 4)
    alone = build(TablesSource(folder), "tables", tmp_path / "again")
    assert users_of(tmp_path / "out") == users_of(tmp_path / "again")
    assert alone.counts.impressions == 240


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5), st.integers(1, 12))
def test_bounds_of_blocks(shown: list[int], block_users: int, block_impressions: int) -> None:
    """Every block holds as many users as may be, and at least one."""
    bounds = cut_users(np.array(shown, np.int64), block_users, block_impressions)
    assert (bounds[0], bounds[-1]) == (0, len(shown))
    for first, stop in pairwise(bounds):
        assert first < stop <= first + block_users
        assert stop == first + 1 or sum(shown[first:stop]) <= block_impressions
        assert stop in (len(shown), first + block_users) or sum(shown[first : stop + 1]) > block_impressions


FILTERED = HEADER + "u1\ta\t1\t1\nu1\tb\t90000\t0\nu2\ta\t90000\t0\nu4\tc\t90001\t1\n"


@pytest.mark.parametrize(
    ("filters", "left", "dropped"),
    [
        (Filters(since=TOMORROW), {"u1": [2], "u2": [1], "u4": [3]}, {"since (impressions)": 1}),
        (Filters(until=TOMORROW), {"u1": [1]}, {"until (impressions)": 3}),
        (Filters(min_rating=3), {"u1": [1, 2], "u2": [1], "u4": [3]}, {}),
        (Filters(min_length=2), {"u1": [1, 2]}, {"min_length (impressions)": 2}),
        (Filters(k_core=2, min_length=2), {"u1": [1, 2]}, {"min_length (impressions)": 2, "k_core (impressions)": 0}),
    ],
)
def test_filters_of_dates_and_users_hold_for_impressions(
    write_tables: WriteTables, tmp_path: Path, filters: Filters, left: dict[str, list[int]], dropped: dict[str, int]
) -> None:
    likes = "".join(f"u1\t{item}\t{time}\t5\n" for item in "abc" for time in (10, 90_000))
    likes += "u3\ta\t10\t1\nu3\ta\t90000\t1\n"
    interactions = f"user_id\titem_id\ttimestamp\trating\n{likes}"
    folder = write_tables(interactions=interactions, impressions=FILTERED)
    index = build(TablesSource(folder), "tables", tmp_path / "out", filters=filters)
    assert verify(tmp_path / "out") == []
    assert {user: row["shown"] for user, row in users_of(tmp_path / "out").items() if row["shown"]} == left
    assert {name: rows for name, rows in index.counts.dropped.items() if "impressions" in name} == dropped


def test_context_is_as_the_source_has_it(write_tables: WriteTables, tmp_path: Path) -> None:
    folder = write_tables()
    table = {"user_id": ["u1", "u1"], "item_id": ["a", "b"], "timestamp": [1, 2], "click": [True, None]}
    context = {"price": [1.5, None], "sponsored": [True, False], "scene": ["", "home"]}
    pq.write_table(pa.table(table | context), folder / "impressions.parquet")
    index = build(TablesSource(folder), "tables", tmp_path / "out")
    user = users_of(tmp_path / "out")["u1"]
    assert index.context_columns == ["price", "sponsored", "scene"]
    assert user["label_click"] == [1.0, None]
    assert [user[f"shown_{name}"] for name in index.context_columns] == [
        ["1.5", None],
        ["true", "false"],
        [None, "home"],
    ]
