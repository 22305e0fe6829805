from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_tools.pieces import cut_pieces
from data_tools.rejects import Reason, Reject
from data_tools.source import Batch
from data_tools.stage import BUCKETS, Fragments, cut_tasks, fragment_path, write_fragment
from transrec.data.shards.schema import user_order_key

SCHEMA = pa.schema([("user_id", pa.string()), ("place", pa.int64())])


def stage(folder: Path, rows: list[str], fragment_rows: int) -> Fragments:
    """A row's place is its position in the source."""
    counts, number = np.zeros(BUCKETS, np.int64), 0
    for number, first in enumerate(range(0, len(rows), fragment_rows)):
        users = rows[first : first + fragment_rows]
        batch = pa.RecordBatch.from_arrays([pa.array(users), pa.array(range(first, first + len(users)))], schema=SCHEMA)
        counts += write_fragment(batch, fragment_path(folder, "x", number))
    return Fragments(folder, "x", SCHEMA, counts, number + 1)


def test_tasks_hold_whole_users_in_their_order_and_rows_in_that_of_the_source(tmp_path: Path) -> None:
    rows = [f"user {number % 97}" for number in range(1000)]
    fragments = stage(tmp_path, rows, fragment_rows=130)
    read = [fragments.read(task).to_pylist() for task in cut_tasks(fragments.rows, task_rows=100)]
    assert len(read) > 8
    last = b""
    for task in read:
        keys = {user_order_key(row["user_id"]) for row in task}
        assert last < min(keys)
        last = max(keys)
        of_user: dict[str, list[int]] = {}
        for row in task:
            of_user.setdefault(row["user_id"], []).append(row["place"])
        for user, places in of_user.items():
            assert places == [place for place, other in enumerate(rows) if other == user]
    assert sum(map(len, read)) == 1000


def test_empty_buckets_take_next_to_nothing(tmp_path: Path) -> None:
    stage(tmp_path, ["u"] * 10_000, fragment_rows=10_000)
    assert fragment_path(tmp_path, "x", 0).stat().st_size < 700_000


def test_some_columns_can_be_read_alone(tmp_path: Path) -> None:
    fragments = stage(tmp_path, ["a", "b"], fragment_rows=1)
    assert fragments.read(range(BUCKETS), ["place"]).schema.names == ["place"]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 12))
def test_tasks_cover_every_row_once(rows: list[int], task_rows: int) -> None:
    tasks = list(cut_tasks(np.array(rows, np.int64), task_rows))
    assert [bucket for task in tasks for bucket in task if rows[bucket]] == np.flatnonzero(rows).tolist()
    for task in tasks:
        held = [rows[bucket] for bucket in task]
        assert 0 < sum(held) <= task_rows or np.count_nonzero(held) == 1


def batch_of(file: str, first: int, count: int) -> Batch:
    """A slice of a larger batch, as readers yield it."""
    rows = pa.RecordBatch.from_pydict({"n": list(range(100_000))}).slice(first, count)
    return Batch(file, pa.array(range(first, first + count)), rows)


def test_pieces_are_whole_batches_and_small_to_send() -> None:
    batches = [batch_of("a", 0, 3), batch_of("b", 10, 0), batch_of("b", 20, 2), batch_of("c", 30, 4)]
    pieces = list(cut_pieces(batches, rows=4))
    assert [(piece.number, piece.files, piece.ends) for piece in pieces] == [(0, ["a", "b"], [3, 5]), (1, ["c"], [4])]
    assert pieces[0].packed.size < 2000
    rows = pieces[0].unpack()
    assert rows.columns["n"].to_pylist() == [0, 1, 2, 20, 21]
    assert [rows.reject(row, Reason.NO_TEXT, "") for row in (2, 3, 4)] == [
        Reject("a", 2, Reason.NO_TEXT, ""),
        Reject("b", 20, Reason.NO_TEXT, ""),
        Reject("b", 21, Reason.NO_TEXT, ""),
    ]
