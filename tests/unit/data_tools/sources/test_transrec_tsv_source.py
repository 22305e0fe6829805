from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.transrec_tsv import TransRecTsvSource


@pytest.fixture
def options(tmp_path: Path, image_bytes: Callable[..., bytes]) -> list[object]:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "i1.jpg").write_bytes(image_bytes())
    (tmp_path / "users.tsv").write_text("u1\ti2 i1 i2\nu2\ti1\n")
    (tmp_path / "items.tsv").write_text("i1\tOne\tAn abstract\ni2\tTwo\t\n")
    return ["--users", tmp_path / "users.tsv", "--items", tmp_path / "items.tsv"]


def test_the_position_is_the_time(options: list[object]) -> None:
    reading = read_source("transrec_tsv", *options)
    assert reading.interactions == [
        ("u1", "i2", 1, None), ("u1", "i1", 2, None), ("u1", "i2", 3, None), ("u2", "i1", 1, None)
    ]  # fmt: skip
    assert reading.lines == [("users.tsv", 1)] * 3 + [("users.tsv", 2)]
    assert reading.users == []


def test_items_of_three_and_of_two_columns(options: list[object], tmp_path: Path) -> None:
    one, two = read_source("transrec_tsv", *options).items
    assert (one.line, one.item_id, one.title, one.text, one.image) == (1, "i1", "One", "One. An abstract.", None)
    assert two.text == "Two."
    (tmp_path / "items.tsv").write_text("i1\tOne\n")
    assert [item.text for item in read_source("transrec_tsv", *options).items] == ["One."]


def test_rejects(options: list[object], tmp_path: Path) -> None:
    with (tmp_path / "users.tsv").open("a") as file:
        file.write("u3 i1\nu1\ti1\n\ti1\n")
    with (tmp_path / "items.tsv").open("a") as file:
        file.write("i3\tThree\n")
    reading = read_source("transrec_tsv", *options)
    assert len(reading.interactions) == 4
    assert reading.reasons() == [
        ("items.tsv", 3, "wrong_field_count"),
        ("users.tsv", 3, "wrong_field_count"),
        ("users.tsv", 5, "empty_id"),
        ("users.tsv", 4, "duplicate_user"),
    ]


def test_build_with_images(options: list[object], tmp_path: Path) -> None:
    index = build_twice("transrec_tsv", [*options, "--images", tmp_path / "images"], tmp_path)
    assert index.counts.model_dump() == {
        "users": 2, "items": 2, "interactions": 4, "impressions": 0, "images": 1,
        "rejects": {"missing_image": 1}, "dropped": {}, "cleaned": {}
    }  # fmt: skip


def test_other_columns_and_missing_files(options: list[object], tmp_path: Path) -> None:
    users, items = tmp_path / "users.tsv", tmp_path / "items.tsv"
    with pytest.raises(SourceError, match="pictures is not a folder"):
        TransRecTsvSource(users, items, tmp_path / "pictures")
    items.write_text("i1\n")
    with pytest.raises(SourceError, match=r"items\.tsv, line 1: 1 columns, expected 2 or 3"):
        TransRecTsvSource(users, items)
    users.unlink()
    with pytest.raises(SourceError, match=r"users\.tsv is missing"):
        TransRecTsvSource(users, items)
