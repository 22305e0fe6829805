from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.tenrec import TenrecSource
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards

HEADER = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age\n"
LINES = (
    "1,4,0,0,0,0,1,0,1,4\n"  # shown, not clicked
    "1,7,1,0,0,0,1,1,1,4\n"
    "1,4,1,0,1,0,1,2,1,4\n"
    "2,7,1,0,0,0,1,1,0,\n"
    "2,,1,0,0,0,1,1,0,\n"
    "2,9,1,0,1,1,0,3,0,\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "QB-video.csv"
    path.write_text(HEADER + LINES)
    return path


def test_clicks_are_interactions_in_the_order_of_the_lines(path: Path) -> None:
    read = read_source("tenrec", "--input", path)
    assert read.interactions == [("1", "7", 3, None), ("1", "4", 4, None), ("2", "7", 5, None), ("2", "9", 7, None)]
    assert [(item.item_id, item.line, item.text) for item in read.items] == [
        ("7", 3, "category 1"),
        ("4", 4, "category 1"),
        ("9", 7, "category 0"),
    ]


def test_another_feedback_can_be_asked_for(path: Path) -> None:
    read = read_source("tenrec", "--input", path, "--feedback", "like")
    assert read.interactions == [("1", "4", 4, None), ("2", "9", 7, None)]
    assert [item.item_id for item in read.items] == ["4", "9"]


def test_gender_and_age_are_a_user_s_profile_once(path: Path) -> None:
    assert read_source("tenrec", "--input", path).users == [
        {"user_id": "1", "gender": "1", "age": "4"},
        {"user_id": "2", "gender": "0", "age": ""},
    ]


def test_a_line_without_an_item_is_rejected_once(path: Path, tmp_path: Path) -> None:
    assert build_twice("tenrec", ["--input", path], tmp_path).counts.rejects == {"empty_id": 1}
    users = UserShards(ShardFolder(tmp_path / "shards"))
    profiles = [users.block(n).profiles.to_pylist() for n in range(len(users))]
    assert {"gender": "1", "age": "4"} in [row for rows in profiles for row in rows]


@pytest.mark.parametrize("one", ["1.0", "True", "true", " 1", "1 "])
@pytest.mark.parametrize("zero", ["0", "0.0", "False", ""])
def test_feedback_may_be_written_as_pandas_writes_it(tmp_path: Path, one: str, zero: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"user_id,item_id,click\n1,4,{one}\n1,5,{zero}\n1,6,{one}\n")
    read = read_source("tenrec", "--input", path)
    assert read.interactions == [("1", "4", 2, None), ("1", "6", 4, None)]
    assert read.rejects == []


@pytest.mark.parametrize("feedback", ["2", "yes", "nan", "-1"])
def test_feedback_that_is_neither_is_rejected_once(tmp_path: Path, feedback: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"user_id,item_id,click,age\n1,4,1,30\n1,5,{feedback},30\n")
    read = read_source("tenrec", "--input", path)
    assert read.interactions == [("1", "4", 2, None)]
    assert read.reasons() == [("t.csv", 3, "bad_label")]
    assert read.rejects[0].detail == f"click is {feedback!r}, neither 1 nor 0"


def test_a_category_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "QB-article.csv"
    path.write_text("user_id,item_id,click,gender,age\n1,4,1,0,2\n")
    read = read_source("tenrec", "--input", path)
    assert [(item.item_id, item.title, item.text) for item in read.items] == [("4", "item 4", "")]


def test_a_file_without_the_feedback_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "QB-article.csv"
    path.write_text("user_id,item_id,click\n1,4,1\n")
    with pytest.raises(SourceError, match=r"QB-article\.csv: no column share; it has user_id, item_id, click"):
        TenrecSource(path, "share")
