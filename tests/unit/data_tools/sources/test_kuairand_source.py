from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def shown(user: int, video: int, time: int, click: str, like: str = "0") -> str:
    return f"{user},{video},20220421,400,{time},{click},{like},0,0,0,0,0,15,10,0,0,0,0,1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text(
        LOG + shown(0, 7, 1650485801301, "1", "1") + shown(0, 8, 1650485802301, "0")
    )
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text(LOG + shown(1, 8, 1650585801301, "1"))
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text(LOG + shown(0, 9, 1650685801301, "1"))
    (folder / "video_features_basic_pure.csv").write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        'music_id,music_type,tag\n7,1,NORMAL,2022-04-01,LongImport,1.0,104400.0,720,1280,3,9.0,"25,8"\n'
        "8,1,NORMAL,2022-04-01,LongImport,1.0,,720,1280,3,9.0,\n9,2,AD,2022-04-01,x,1.0,,720,1280,3,9.0,6\n"
    )
    (folder / "video_features_statistic_pure.csv").write_text("video_id,counts\n7,1\n")
    (folder / "user_features_pure.csv").write_text(
        'user_id,user_active_degree,follow_user_num_range\n0,full,"(0,10]"\n'
    )
    return folder


def test_clicks_of_the_standard_logs(folder: Path, tmp_path: Path) -> None:
    reading = read_source("kuairand", "--input", folder)
    assert reading.interactions == [("0", "7", 1650485801, None), ("1", "8", 1650585801, None)]
    seven, eight, _ = reading.items
    assert (seven.title, seven.text) == ("video 7", "video 7. type NORMAL. tags 25, 8.")
    assert seven.fields == {"author_id": "1", "video_type": "NORMAL", "music_type": "9.0", "tag": "25,8"}
    assert eight.text == "video 8. type NORMAL."
    assert reading.users == [{"user_id": "0", "user_active_degree": "full", "follow_user_num_range": "(0,10]"}]
    index = build_twice("kuairand", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 3, 2)


def test_what_was_shown_with_its_labels_and_context(folder: Path, tmp_path: Path) -> None:
    source = make_source("kuairand", "--input", folder)
    batches = list(source.impressions(pytest.fail))
    first, second, third = (row for batch in batches for row in batch.rows.to_pylist())
    assert (first["user_id"], first["item_id"], first["timestamp"]) == ("0", "7", 1650485801)
    heads = ("click", "long_view", "like", "follow", "comment", "forward", "hate")
    assert [first[f"label_{head}"] for head in heads] == [1, 0, 1, 0, 0, 0, 0]
    assert {name: first[name] for name in first if name.startswith("shown_")} == {
        "shown_tab": "1", "shown_is_rand": "0"
    }  # fmt: skip
    assert (second["label_click"], third["label_click"]) == (0, 1)
    index = build_twice("kuairand", ["--input", folder], tmp_path)
    assert (index.heads, index.counts.impressions) == (list(heads), 3)


def test_other_logs_and_feedback(folder: Path) -> None:
    def items(*options: str) -> list[str]:
        return [row[1] for row in read_source("kuairand", "--input", folder, *options).interactions]

    assert items("--logs", "random") == ["9"]
    assert items("--logs", "both") == ["7", "8", "9"]
    assert items("--feedback", "is_like") == ["7"]


def test_feedback_that_is_neither_1_nor_0_is_rejected_once(folder: Path, tmp_path: Path) -> None:
    with (folder / "log_standard_4_22_to_5_08_pure.csv").open("a") as file:
        file.write(shown(1, 7, 1650585801301, "maybe") + shown(1, 7, 1650585801302, "1.0") + "short\n")
    assert read_source("kuairand", "--input", folder).interactions[-1] == ("1", "7", 1650585801, None)
    index = build_twice("kuairand", ["--input", folder], tmp_path)
    assert index.counts.rejects == {"bad_label": 1, "wrong_field_count": 1}
    assert (index.counts.interactions, index.counts.impressions) == (3, 4)


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    (folder / "user_features_pure.csv").unlink()
    with pytest.raises(SourceError, match=r"has no user_features_\*\.csv"):
        make_source("kuairand", "--input", folder)
