from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

MATRIX = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
CAPTIONS = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
    '0,UNKNOWN,"精神小伙, 路难走\n程哥",[搞笑],8,颜值,673,颜值随拍,-124,UNKNOWN\n'
    "1,封面,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "big_matrix.csv").write_text(
        MATRIX + "0,0,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733\n"
        "0,2,10,10867,2020-07-05 00:09:00,20200705,1593878940.0,0.1\n"
    )
    (folder / "small_matrix.csv").write_text(
        MATRIX + "14,1,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.7221\n14,0,4381,6067,,,,0.7\n"
    )
    (folder / "kuairec_caption_category.csv").write_text(CAPTIONS)
    (folder / "item_categories.csv").write_text('video_id,feat\n0,[8]\n1,"[27, 9]"\n2,[9]\n')
    (folder / "user_features.csv").write_text("user_id,user_active_degree,onehot_feat0\n0,full_active,1.0\n")
    return folder


def test_items_are_those_with_captions_and_then_the_others(folder: Path) -> None:
    first, second, third = read_source("kuairec", "--input", folder).items
    assert (first.item_id, first.line, first.title) == ("0", 2, "精神小伙, 路难走\n程哥")
    assert first.text == "精神小伙, 路难走\n程哥. [搞笑]. 颜值. 颜值随拍."
    assert first.fields == {"category": "颜值 > 颜值随拍"}
    assert (second.title, second.line, second.fields) == ("封面", 4, {"category": "高新数码"})
    assert (third.item_id, third.title, third.file) == ("2", "video 2", "item_categories.csv")


def test_the_big_matrix_is_the_default(folder: Path, tmp_path: Path) -> None:
    reading = read_source("kuairec", "--input", folder)
    assert [row[:3] for row in reading.interactions] == [("0", "0", 1593878903), ("0", "2", 1593878940)]
    assert [round(row[3], 4) for row in reading.interactions] == [1.2733, 0.1]
    assert reading.users == [{"user_id": "0", "user_active_degree": "full_active", "onehot_feat0": "1.0"}]
    index = build_twice("kuairec", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (1, 3, 2)
    assert index.build["matrix"] == "big"


def test_what_was_shown_is_labelled_by_whether_it_was_watched_to_its_end(folder: Path, tmp_path: Path) -> None:
    [batch] = make_source("kuairec", "--input", folder).impressions(pytest.fail)
    assert [(row["item_id"], row["timestamp"], row["label_watch"]) for row in batch.rows.to_pylist()] == [
        ("0", 1593878903, 1), ("2", 1593878940, 0)
    ]  # fmt: skip
    index = build_twice("kuairec", ["--input", folder], tmp_path)
    assert (index.heads, index.counts.impressions) == (["watch"], 2)


def test_rows_of_the_small_matrix_without_a_time_are_rejected(folder: Path) -> None:
    reading = read_source("kuairec", "--input", folder, "--matrix", "small")
    assert [row[:3] for row in reading.interactions] == [("14", "1", 1593898068)]
    assert reading.reasons() == [("small_matrix.csv", 3, "bad_timestamp")]


def test_a_file_or_column_that_is_missing_is_named(folder: Path) -> None:
    (folder / "item_categories.csv").write_text("video_id,tags\n")
    with pytest.raises(SourceError, match=r"item_categories\.csv: no column feat; it has video_id, tags"):
        make_source("kuairec", "--input", folder)
    (folder / "big_matrix.csv").unlink()
    with pytest.raises(SourceError, match=r"big_matrix\.csv is missing"):
        make_source("kuairec", "--input", folder)
