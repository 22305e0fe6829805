from pathlib import Path

import pyarrow as pa
import pytest

from data_tools.executor import InProcess
from data_tools.profiles import Profiles, columns_of, stage_profiles
from data_tools.rejects import Reason, Reject
from data_tools.source import Batch, SourceError
from data_tools.stage import BUCKETS

ALL = range(BUCKETS)


def batch_of(**columns: list) -> Batch:
    rows = pa.RecordBatch.from_pydict(columns)
    return Batch("users.tsv", pa.array(range(2, 2 + len(rows))), rows)


def test_join_follows_the_users_and_leaves_nulls(tmp_path: Path) -> None:
    batches = [batch_of(user_id=["b", "c"], age=["1", "2"]), batch_of(user_id=["a"], age=["3"])]
    staged = stage_profiles(batches, tmp_path, InProcess())
    [age] = Profiles(staged.read(ALL), pytest.fail).of(pa.array(["a", "x", "b"]))
    assert columns_of(staged) == ["age"]
    assert age.to_pylist() == ["3", None, "1"]


def test_without_profiles_there_are_no_columns(tmp_path: Path) -> None:
    staged = stage_profiles([], tmp_path, InProcess())
    assert columns_of(staged) == []
    assert Profiles(staged.read(ALL), pytest.fail).of(pa.array(["a"])) == []


def test_second_profile_of_a_user_is_rejected(tmp_path: Path) -> None:
    rejects: list[Reject] = []
    staged = stage_profiles([batch_of(user_id=["a", "a"], age=["1", "2"])], tmp_path, InProcess())
    profiles = Profiles(staged.read(ALL), rejects.append)
    assert rejects == [Reject("users.tsv", 3, Reason.DUPLICATE_USER, "user 'a' already has a profile")]
    assert [column.to_pylist() for column in profiles.of(pa.array(["a"]))] == [["1"]]


def test_a_profile_may_have_columns_called_as_the_stage_calls_its_own(tmp_path: Path) -> None:
    staged = stage_profiles([batch_of(user_id=["a"], file=["x"], line=["y"])], tmp_path, InProcess())
    profiles = Profiles(staged.read(ALL), pytest.fail).of(pa.array(["a"]))
    assert (columns_of(staged), [column.to_pylist() for column in profiles]) == (["file", "line"], [["x"], ["y"]])


def test_column_named_like_a_column_of_the_schema(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="items"):
        stage_profiles([batch_of(user_id=["a"], items=["1"])], tmp_path, InProcess())
