from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

SESSIONS = "prev_items,next_item,locale\n\"['B1' 'B2'\n 'B1']\",B3,UK\n['B9'],B1,DE\n['B3' 'B2'],B1,UK\n"
PRODUCTS = (
    "id,locale,title,price,brand,color,size,model,material,author,desc\n"
    'B1,UK,"Pot, iron",9.99,Acme,black,L,M1,iron,,Heavy\n'
    "B1,DE,Topf,9.99,Acme,,,,,,\nB2,UK,Pan,1.0,,,,,,,\nB3,UK,Book,1.0,,,,,,Poe,\nB9,DE,Neun,1.0,,,,,,,\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "m2"
    folder.mkdir()
    (folder / "sessions_train.csv").write_text(SESSIONS)
    (folder / "products_train.csv").write_text(PRODUCTS)
    return folder


def test_sessions_of_one_shop(folder: Path, tmp_path: Path) -> None:
    reading = read_source("amazon_m2", "--input", folder)
    assert [row[:3] for row in reading.interactions] == [
        ("UK-2", "B1", 1), ("UK-2", "B2", 2), ("UK-2", "B1", 3), ("UK-2", "B3", 4),
        ("UK-5", "B3", 1), ("UK-5", "B2", 2), ("UK-5", "B1", 3),
    ]  # fmt: skip
    pot, _, book = reading.items
    assert (pot.title, pot.text) == ("Pot, iron", "Pot, iron. Acme. black. Heavy.")
    assert (pot.fields["size"], book.fields["author"]) == ("L", "Poe")
    index = build_twice("amazon_m2", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 3, 7)


def test_another_shop(folder: Path) -> None:
    reading = read_source("amazon_m2", "--input", folder, "--locale", "DE")
    assert [row[:2] for row in reading.interactions] == [("DE-4", "B9"), ("DE-4", "B1")]
    assert [item.title for item in reading.items] == ["Topf", "Neun"]


def test_a_column_that_is_missing_is_named(folder: Path) -> None:
    (folder / "sessions_train.csv").write_text("prev_items,locale\n")
    with pytest.raises(SourceError, match=r"sessions_train\.csv: no column next_item"):
        make_source("amazon_m2", "--input", folder)
