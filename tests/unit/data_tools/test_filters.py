import argparse
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import build as build_module
from data_tools.build import build
from data_tools.errors import DataToolsError
from data_tools.filters import Filters
from data_tools.histories import Histories
from data_tools.indexing import indexed
from data_tools.shard_reader import read_blocks, read_catalogue
from data_tools.source import INTERACTION_COLUMNS
from data_tools.sources.tables import TablesSource
from data_tools.verify import verify
from transrec.data.shards.schema import ShardIndex

DAY = datetime(2020, 1, 2, tzinfo=UTC)
MIDNIGHT = int(DAY.timestamp())


def parse(*argv: str) -> Filters:
    parser = argparse.ArgumentParser()
    Filters.add_arguments(parser)
    return Filters.from_arguments(parser.parse_args(argv))


def rows_of(**columns: list) -> pa.RecordBatch:
    count = len(next(iter(columns.values())))
    defaults = {"user_id": ["u"] * count, "item": [1] * count, "timestamp": [0] * count, "rating": [None] * count}
    return pa.RecordBatch.from_pydict(defaults | columns, schema=indexed(INTERACTION_COLUMNS))


def pairs_of(folder: Path) -> list[tuple[str, int]]:
    users = [user for block in read_blocks(folder) for user in block.users.to_pylist()]
    return sorted((user["user_id"], item) for user in users for item in user["items"])


def core_of(pairs: list[tuple[str, int]], user_minimum: int, item_minimum: int) -> list[tuple[str, int]]:
    """The k-core by its definition: drop users and items until none falls short."""
    while True:
        users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
        left = [(u, i) for u, i in pairs if users[u] >= user_minimum and items[i] >= item_minimum]
        if len(left) == len(pairs):
            return sorted(left)
        pairs = left


def test_options_are_those_that_are_set() -> None:
    assert parse().options() == {}
    dates = ("--since", "2020-01-02", "--until", "2020-01-02T03:00+03:00")
    filters = parse(*dates, "--min-rating", "3.5", "--k-core", "5")
    assert filters == Filters(since=DAY, until=DAY, min_rating=3.5, k_core=5)
    assert filters.options() == {
        "since": "2020-01-02T00:00:00+00:00", "until": "2020-01-02T00:00:00+00:00", "min_rating": 3.5, "k_core": 5
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv", [("--since", "yesterday"), ("--min-rating", "nan"), ("--min-length", "0"), ("--k-core", "-1")]
)
def test_values_that_mean_nothing_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        parse(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--k-core", "2.0"), "'2.0' is not a whole number of 1 or more"),
        (("--min-length", "0"), "'0' is not a whole number of 1 or more"),
        (("--min-rating", "good"), "'good' is not a number"),
        (("--min-rating", "inf"), "'inf' is not a number"),
    ],
)
def test_a_refused_number_is_told_what_was_expected(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(*argv)
    assert message in capsys.readouterr().err


def test_since_is_inclusive_and_until_is_not() -> None:
    rows = rows_of(timestamp=[MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1])
    kept, dropped = Filters(since=DAY).keep_rows(rows)
    assert (kept["timestamp"].to_pylist(), dropped) == ([MIDNIGHT, MIDNIGHT + 1], {"since": 1})
    kept, dropped = Filters(until=DAY).keep_rows(rows)
    assert (kept["timestamp"].to_pylist(), dropped) == ([MIDNIGHT - 1], {"until": 2})


def test_rating_is_compared_as_it_is_stored() -> None:
    kept, dropped = Filters(min_rating=4.1).keep_rows(rows_of(rating=[4.0, 4.1, 5.0, None]))
    assert (len(kept), dropped) == (2, {"min_rating": 2})


def test_a_row_counts_for_the_first_filter_that_drops_it() -> None:
    rows = rows_of(timestamp=[0, MIDNIGHT, MIDNIGHT], rating=[1.0, 1.0, 5.0])
    assert Filters(since=DAY, min_rating=3).keep_rows(rows)[1] == {"since": 1, "min_rating": 1}


def test_short_users_are_dropped() -> None:
    histories = Histories.group(pa.Table.from_batches([rows_of(user_id=["a", "b", "a", "c", "b", "a"])]))
    kept, dropped = Filters(min_length=2).keep_users(histories, core=None)
    assert (set(kept.user_ids.to_pylist()), dropped) == ({"a", "b"}, {"min_length": 1})


@settings(max_examples=20, deadline=None)  # each builds a folder
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 6)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.none() | st.integers(1, 5),
)
def test_core_agrees_with_the_definition(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int]], k: int, min_length: int | None
) -> None:
    """There are several tasks, so that an item's interactions are in more than one."""
    expected = core_of(pairs, max(k, min_length or 1), k)
    folder = tmp_path_factory.mktemp("core")
    out = folder / "out"
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "".join(f"{item}\tTitle\n" for item in range(1, 7)))
    rows = [f"{user}\t{item}\t0\n" for user, item in pairs]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))
    filters = Filters(k_core=k, min_length=min_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "cut_tasks", lambda rows: [range(0, 300), range(300, 600), range(600, 1024)])
        if not expected:
            with pytest.raises(DataToolsError, match="the filters drop every interaction"):
                build(TablesSource(folder), "tables", out, filters=filters)
            return
        index = build(TablesSource(folder), "tables", out, filters=filters)
    assert pairs_of(out) == expected
    assert sum(index.counts.dropped.values()) == len(pairs) - len(expected)
    assert verify(out) == []


def test_what_is_dropped_is_recorded_and_items_stay(write_tables, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    filters = Filters(since=datetime.fromtimestamp(10, UTC), min_rating=2, min_length=2)
    build(TablesSource(write_tables()), "tables", tmp_path / "out", filters=filters)
    index = ShardIndex.load(tmp_path / "out")
    assert index.counts.dropped == {"since": 1, "min_rating": 2, "min_length": 0}
    assert {key: value for key, value in index.build.items() if key in filters.options()} == filters.options()
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (1, 3, 2)
    assert read_catalogue(tmp_path / "out")["interactions"].to_pylist() == [1, 1, 0]
    assert verify(tmp_path / "out") == []
