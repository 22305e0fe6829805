import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from shard_sets import edit_index, make_version_3

from transrec.data.shards.schema import (
    BLOCKS_SCHEMA,
    SCHEMA_VERSION,
    USER_COLUMNS,
    ShardIndex,
    ShardSetError,
    fault_of_impressions,
    impression_columns,
    user_schema,
)

USER = {
    "user_id": "u",
    "items": [3],
    "timestamps": [0],
    "ratings": [None],
    "shown": [2, 1, 2],
    "shown_timestamps": [5, 5, 6],
    "shown_requests": [0, 0, 1],
    "label_click": [0, 1, None],
    "shown_position": ["1", None, ""],
    "age": "31",
}
NOBODY = {"user_id": "v", "items": [], "timestamps": [], "ratings": [], "age": None} | {
    name: [] for name in ("shown", "shown_timestamps", "shown_requests", "label_click", "shown_position")
}


@pytest.fixture
def index(synthetic_shards: Path) -> ShardIndex:
    """An index with impressions, of three items."""
    index = ShardIndex.load(synthetic_shards)
    counts = index.counts.model_copy(update={"items": 3})
    columns = {"heads": ["click"], "context_columns": ["position"], "user_columns": ["age"]}
    return index.model_copy(update={"counts": counts, **columns})


@pytest.fixture
def copy(synthetic_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_shards, tmp_path / "copy"))


def test_columns_of_impressions_are_there_with_heads_only() -> None:
    assert impression_columns([], []) == pa.schema([])
    assert user_schema([], [], ["age"]) == pa.schema([*USER_COLUMNS, ("age", pa.string())])
    assert user_schema(["click"], ["position"], ["age"]).names == list(USER)


def test_impressions_as_they_should_be_have_no_fault(index: ShardIndex) -> None:
    users = pa.RecordBatch.from_pylist([USER, NOBODY, USER], index.user_schema)  # times begin anew with each user
    assert fault_of_impressions(users, index) is None
    unobserved = USER | {"label_click": [None, None, None]}
    assert fault_of_impressions(pa.RecordBatch.from_pylist([unobserved], index.user_schema), index) is None
    assert fault_of_impressions(pa.RecordBatch.from_pylist([], index.user_schema), index) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"shown": [2, 1]}, "different numbers of shown and shown_timestamps"),
        ({"shown_requests": [0, 0, 0, 0]}, "different numbers of shown and shown_requests"),
        ({"label_click": []}, "different numbers of shown and label_click"),
        ({"shown_position": ["1"]}, "different numbers of shown and shown_position"),
        ({"shown": None}, "impressions without an item"),
        ({"label_click": None}, "impressions without an item"),
        ({"shown": [2, None, 2]}, "impressions without an item"),
        ({"shown_timestamps": [5, None, 6]}, "impressions without an item, a time"),
        ({"shown_requests": [0, None, 1]}, "impressions without an item, a time or a request"),
        ({"shown": [0, 1, 2]}, "items 0 to 2, not 1 to 3"),
        ({"shown": [2, 1, 4]}, "items 1 to 4, not 1 to 3"),
        ({"label_click": [0, 1, 0.5]}, "label_click other than 0, 1 and null"),
        ({"label_click": [0, 1, float("nan")]}, "label_click other than 0, 1 and null"),
        ({"shown_timestamps": [5, 6, 5]}, "shown_timestamps that are not in ascending order"),
    ],
)
def test_a_fault_in_impressions_is_named(index: ShardIndex, damage: dict[str, Any], message: str) -> None:
    users = pa.RecordBatch.from_pylist([NOBODY, USER | damage], index.user_schema)
    assert message in str(fault_of_impressions(users, index))


def test_an_index_of_version_3_records_no_impressions(copy: Path) -> None:
    before = ShardIndex.load(copy)
    make_version_3(copy)
    index = ShardIndex.load(copy)
    assert (index.schema_version, SCHEMA_VERSION) == (3, 4)
    assert (index.counts.impressions, index.heads, index.context_columns) == (0, [], [])
    assert index.counts == before.counts
    assert index.blocks_schema.names == BLOCKS_SCHEMA.names[:-1]
    assert before.blocks_schema == BLOCKS_SCHEMA


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda index: index.update(heads=["click"]), "damaged"),
        (lambda index: index["counts"].update(users=1), "damaged"),
        (lambda index: index.update(counts=[]), "malformed: `counts`"),
    ],
)
def test_an_index_of_version_3_is_checked_as_it_is(
    copy: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    make_version_3(copy)
    path = copy / "index.json"
    if message == "damaged":
        path.write_text(edited(path.read_text(), edit))
    else:
        edit_index(copy, edit)
    with pytest.raises(ShardSetError, match=message):
        ShardIndex.load(copy)


def edited(text: str, edit: Callable[[dict[str, Any]], None]) -> str:
    index = json.loads(text)
    edit(index)
    return json.dumps(index)


def test_a_version_that_is_not_known_is_refused(copy: Path) -> None:
    edit_index(copy, lambda index: index.update(schema_version=2))
    with pytest.raises(ShardSetError, match="schema version 2, but this code reads 3 and 4: rebuild the shards"):
        ShardIndex.load(copy)
