from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

INFO = (
    "item_id,view_number,comment_number,title,tag,description\n"
    'i0,100,3,"标题, 一",舞蹈,"第一行\n第二行"\ni1,5,0,Two,,\n,1,1,Nameless,,\n'
)
PAIRS = "item_id,user_id,timestamp\ni0,u1,1623000002\ni1,u1,1623000001\ni1,u2,soon\ni1,u2,1623000003\n"
SECONDS = [("u1", "i0", 1623000002, None), ("u1", "i1", 1623000001, None), ("u2", "i1", 1623000003, None)]


@pytest.fixture
def folder(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    folder = tmp_path / "Pixel200K"
    for name, text in (("pixelrec_iteminfo", INFO), ("pixelrec_interaction", PAIRS)):
        (folder / name).mkdir(parents=True)
        (folder / name / "Pixel200K.csv").write_text(text)
    (folder / "cover").mkdir()
    (folder / "cover" / "i0.jpg").write_bytes(image_bytes())
    return folder


def test_items_with_covers_and_interactions(folder: Path, tmp_path: Path) -> None:
    reading = read_source("pixelrec", "--input", folder)
    first, second = reading.items
    assert (first.line, first.item_id, first.title, first.text) == (
        2,
        "i0",
        "标题, 一",
        "标题, 一. 舞蹈. 第一行\n第二行.",
    )
    assert first.fields == {"tag": "舞蹈", "view_number": "100", "comment_number": "3"}
    assert first.image == folder / "cover" / "i0.jpg"
    assert (second.line, second.text) == (4, "Two.")
    assert reading.interactions == SECONDS
    assert [reason for *_, reason in reading.reasons()] == ["empty_id", "bad_timestamp"]
    counts = build_twice("pixelrec", ["--input", folder], tmp_path).counts
    assert (counts.users, counts.items, counts.interactions, counts.images) == (2, 2, 3, 1)
    assert counts.rejects == {"bad_timestamp": 1, "empty_id": 1, "missing_image": 1}


def test_files_may_lie_in_the_folder_itself_without_covers(folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    (folder / "pixelrec_iteminfo" / "Pixel200K.csv").rename(flat / "item_info.csv")
    (folder / "pixelrec_interaction" / "Pixel200K.csv").rename(flat / "Pixel200K.csv")
    reading = read_source("pixelrec", "--input", flat)
    assert (reading.interactions, [item.image for item in reading.items]) == (SECONDS, [None, None])


def test_what_is_missing_or_there_twice_is_named(folder: Path) -> None:
    (folder / "Pixel1M.csv").write_text(PAIRS)
    twice = (
        r"one \.csv with the columns user_id, item_id, timestamp; found: Pixel1M\.csv, pixelrec_interaction/Pixel200K"
    )
    with pytest.raises(SourceError, match=twice):
        make_source("pixelrec", "--input", folder)
    (folder / "Pixel1M.csv").write_text("a,b\n")
    (folder / "pixelrec_iteminfo" / "Pixel200K.csv").write_text("item_id,title\n")
    with pytest.raises(SourceError, match="with the columns item_id, title, tag, description; found: none"):
        make_source("pixelrec", "--input", folder)
