from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.ninerec import NineRecSource

ITEMS = 'v1,韩国电影，《女教师》,"Korean Movie, The Governess"\nv2,只有中文,\nv3,三,Three\n'


@pytest.fixture
def folder(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    folder = tmp_path / "KU"
    (folder / "KU_cover").mkdir(parents=True)
    (folder / "KU_cover" / "v1.jpg").write_bytes(image_bytes())
    (folder / "KU_item.csv").write_text(ITEMS)
    (folder / "KU_pair.csv").write_text("u1,v2,20\nu1,v1,10\nu2,v3,5\n")
    return folder


def test_items(folder: Path) -> None:
    korean, chinese, _ = read_source("ninerec", "--input", folder).items
    assert (korean.line, korean.item_id, korean.title) == (1, "v1", "Korean Movie, The Governess")
    assert korean.fields == {"title_zh": "韩国电影，《女教师》"}
    assert korean.image == folder / "KU_cover" / "v1.jpg"
    assert (chinese.title, chinese.text) == ("只有中文", "只有中文")


def test_hidden_files_are_passed_over(folder: Path) -> None:
    expected = read_source("ninerec", "--input", folder)
    (folder / "._KU_item.csv").write_bytes(b"\0\5")
    (folder / "._KU_cover").mkdir()
    assert read_source("ninerec", "--input", folder) == expected


def test_items_of_one_title(folder: Path) -> None:
    (folder / "KU_item.csv").write_text("v1,一\n")
    assert [item.title for item in read_source("ninerec", "--input", folder).items] == ["一"]


@pytest.mark.parametrize("pairs", ["u1,v2,20\nu2,v3,5\n", "v2,u1,20\nv3,u2,5\n"], ids=["user first", "item first"])
def test_pairs(folder: Path, pairs: str) -> None:
    (folder / "KU_pair.csv").write_text(pairs)
    reading = read_source("ninerec", "--input", folder)
    assert reading.interactions == [("u1", "v2", 20, None), ("u2", "v3", 5, None)]
    assert reading.users == []


def test_pairs_without_times_give_way_to_sequences(folder: Path) -> None:
    (folder / "KU_pair.csv").write_text("u1,v2\nu1,v1\n")
    with pytest.raises(SourceError, match=r"needs KU_pair\.csv with timestamps, or KU_behaviour\.tsv"):
        NineRecSource(folder)
    (folder / "KU_behaviour.tsv").write_text("u1\tv2 v1\n")
    assert read_source("ninerec", "--input", folder).interactions == [("u1", "v2", 1, None), ("u1", "v1", 2, None)]


def test_a_shared_folder_of_covers(folder: Path) -> None:
    (folder / "KU_cover").rename(folder / "Source_cover")
    assert read_source("ninerec", "--input", folder).items[0].image == folder / "Source_cover" / "v1.jpg"


def test_rejects(folder: Path) -> None:
    with (folder / "KU_pair.csv").open("a") as file:
        file.write("u1,v1,soon\nu1,v1\n,v1,3\n")
    with (folder / "KU_item.csv").open("a") as file:
        file.write("v4,四,Four,more\n")
    assert read_source("ninerec", "--input", folder).reasons() == [
        ("KU_item.csv", 4, "wrong_field_count"),
        ("KU_pair.csv", 5, "wrong_field_count"),
        ("KU_pair.csv", 4, "bad_timestamp"),
        ("KU_pair.csv", 6, "empty_id"),
    ]


def test_build(folder: Path, tmp_path: Path) -> None:
    index = build_twice("ninerec", ["--input", folder], tmp_path)
    assert index.counts.model_dump() == {
        "users": 2, "items": 3, "interactions": 3, "impressions": 0, "images": 1,
        "rejects": {"missing_image": 2}, "dropped": {}, "cleaned": {}
    }  # fmt: skip


def test_other_columns_and_other_folders(folder: Path) -> None:
    (folder / "KU_item.csv").write_text("v1\n")
    with pytest.raises(SourceError, match=r"KU_item\.csv, line 1: 1 columns, expected 2 or 3"):
        NineRecSource(folder)
    (folder / "QB_item.csv").write_text(ITEMS)
    with pytest.raises(SourceError, match=r"found KU_item\.csv, QB_item\.csv"):
        NineRecSource(folder)
