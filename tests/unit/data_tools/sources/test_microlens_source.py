from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

INTERACTIONS = [("36121", "9580", 1583378629, None), ("7", "10", 1583378630, None), ("36121", "10", 1583378631, None)]


@pytest.fixture
def folder(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    """As MicroLens-100k is published."""
    folder = tmp_path / "MicroLens-100k"
    (folder / "MicroLens-100k_covers").mkdir(parents=True)
    (folder / "MicroLens-100k_covers" / "10.jpg").write_bytes(image_bytes())
    (folder / "MicroLens-100k_covers" / "9580.jpg").write_bytes(image_bytes())
    (folder / "MicroLens-100k_pairs.csv").write_text(
        "user,item,timestamp\n36121,9580,1583378629552\n7,10,1583378630000\n36121,10,1583378631999\n"
    )
    (folder / "MicroLens-100k_pairs.tsv").write_text("36121\t9580 10\n7\t10\n")
    (folder / "MicroLens-100k_title_en.csv").write_text('9580,Cats, dogs "and" birds\n10,"Say ""hi"", you"\n')
    return folder


def test_100k(folder: Path, tmp_path: Path) -> None:
    reading = read_source("microlens", "--input", folder)
    assert [(item.item_id, item.title, item.line) for item in reading.items] == [
        ("9580", 'Cats, dogs "and" birds', 1), ("10", 'Say "hi", you', 2)
    ]  # fmt: skip
    assert reading.items[1].image == folder / "MicroLens-100k_covers" / "10.jpg"
    assert (reading.interactions, reading.rejects) == (INTERACTIONS, [])
    index = build_twice("microlens", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions, index.counts.images) == (2, 2, 3, 2)


def test_50k_has_titles_with_a_header(folder: Path) -> None:
    (folder / "MicroLens-100k_title_en.csv").unlink()
    (folder / "MicroLens-50k_titles.csv").write_text('item,title\n9580,"Cats, dogs"\n10,Birds\n')
    reading = read_source("microlens", "--input", folder)
    assert [(item.title, item.line) for item in reading.items] == [("Cats, dogs", 2), ("Birds", 3)]


def test_columns_are_read_by_the_names_of_the_header(folder: Path) -> None:
    (folder / "MicroLens-100k_pairs.csv").write_text("timestamp,item,user\n1583378629552,9580,36121\n")
    (folder / "MicroLens-100k_title_en.csv").write_text("title,item\nCats,9580\n")
    reading = read_source("microlens", "--input", folder)
    assert reading.interactions == INTERACTIONS[:1]
    assert [(item.item_id, item.title) for item in reading.items] == [("9580", "Cats")]


def test_a_header_of_other_names_is_refused(folder: Path) -> None:
    (folder / "MicroLens-100k_title_en.csv").write_text("id,name\n9580,Cats\n")
    with pytest.raises(
        SourceError, match=r"_title_en\.csv, line 1: the columns id, name, expected item, title, in any"
    ):
        make_source("microlens", "--input", folder)
    (folder / "MicroLens-100k_pairs.csv").write_text("uid,vid,timestamp\n1,2,3\n")
    with pytest.raises(
        SourceError, match=r"_pairs\.csv, line 1: the columns uid, vid, timestamp, expected user, item, "
    ):
        make_source("microlens", "--input", folder)


def test_pairs_without_a_header(folder: Path) -> None:
    (folder / "MicroLens-100k_pairs.csv").write_text("36121,9580,1583378629552\n")
    assert read_source("microlens", "--input", folder).interactions == INTERACTIONS[:1]


def test_sequences_are_read_where_there_are_no_pairs(folder: Path) -> None:
    (folder / "MicroLens-100k_pairs.csv").unlink()
    assert read_source("microlens", "--input", folder).interactions == [
        ("36121", "9580", 1, None), ("36121", "10", 2, None), ("7", "10", 1, None)
    ]  # fmt: skip


def test_a_line_without_a_title_is_rejected(folder: Path) -> None:
    with (folder / "MicroLens-100k_title_en.csv").open("a") as file:
        file.write("11\n,Nameless\n")
    assert read_source("microlens", "--input", folder).reasons() == [
        ("MicroLens-100k_title_en.csv", 3, "wrong_field_count"), ("MicroLens-100k_title_en.csv", 4, "empty_id")
    ]  # fmt: skip


def test_what_is_missing_or_twice_there_is_named(folder: Path) -> None:
    (folder / "MicroLens-50k_pairs.csv").touch()
    with pytest.raises(SourceError, match=r"one data set, but has MicroLens-100k_pairs\.csv, MicroLens-50k_pairs\.csv"):
        make_source("microlens", "--input", folder)
    (folder / "MicroLens-50k_pairs.csv").unlink()
    (folder / "MicroLens-100k_pairs.csv").write_text("user,item\n")
    with pytest.raises(SourceError, match=r"_pairs\.csv, line 1: 2 columns, expected 3"):
        make_source("microlens", "--input", folder)
    (folder / "MicroLens-100k_pairs.csv").unlink()
    (folder / "MicroLens-100k_title_en.csv").unlink()
    with pytest.raises(SourceError, match=r"has none of \*_title_en\.csv"):
        make_source("microlens", "--input", folder)
