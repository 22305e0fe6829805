import pyarrow as pa
import pytest

from data_tools.profiles import Profiles
from data_tools.rejects import Reason, Reject
from data_tools.sources.source import Batch, SourceError
from transrec.data.schema import USER_COLUMNS


def batch_of(**columns: list) -> Batch:
    rows = pa.RecordBatch.from_pydict(columns)
    return Batch("users.tsv", pa.array(range(2, 2 + len(rows))), rows)


def users(*ids: str) -> pa.RecordBatch:
    rows = [{"user_id": user, "items": [1], "timestamps": [0], "ratings": [None]} for user in ids]
    return pa.RecordBatch.from_pylist(rows, USER_COLUMNS)


def test_join_follows_the_users_and_leaves_nulls() -> None:
    profiles = Profiles([batch_of(user_id=["b", "c"], age=["1", "2"]), batch_of(user_id=["a"], age=["3"])], pytest.fail)
    joined = profiles.join(users("a", "x", "b"))
    assert profiles.columns == ["age"]
    assert joined.schema == pa.schema([*USER_COLUMNS, ("age", pa.string())])
    assert joined["age"].to_pylist() == ["3", None, "1"]


def test_without_profiles_the_users_stay_as_they_are() -> None:
    assert Profiles([], pytest.fail).join(users("a")) == users("a")


def test_second_profile_of_a_user_is_rejected() -> None:
    rejects: list[Reject] = []
    profiles = Profiles([batch_of(user_id=["a", "a"], age=["1", "2"])], rejects.append)
    assert rejects == [Reject("users.tsv", 3, Reason.DUPLICATE_USER, "user 'a' already has a profile")]
    assert profiles.join(users("a"))["age"].to_pylist() == ["1"]


def test_column_named_like_a_column_of_the_schema() -> None:
    with pytest.raises(SourceError, match="items"):
        Profiles([batch_of(user_id=["a"], items=["1"])], pytest.fail)
