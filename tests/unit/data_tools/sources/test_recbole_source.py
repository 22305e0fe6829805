from pathlib import Path

import pytest

from data_tools.rejects import Reason, Reject
from data_tools.sources.recbole import RecBoleSource, field_types
from data_tools.sources.source import SourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t3\t8.5e8\n")
    (tmp_path / "x.item").write_text(
        "item_id:token\tyear:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n"
        "7\t1995\tToy Story\tAnimation Comedy\t1.5\n8\t\tNo Year.\t\t2\n"
    )
    (tmp_path / "x.user").write_text("user_id:token\tage:token\n1\t24\n")
    return tmp_path


def test_text_is_composed_of_the_text_columns(folder: Path) -> None:
    toy_story, no_year = RecBoleSource(folder).items(pytest.fail)
    assert (toy_story.line, toy_story.item_id, toy_story.title) == (2, "7", "Toy Story")
    assert toy_story.text == "1995. Toy Story. Animation Comedy."
    assert toy_story.fields == {"year": "1995", "class": "Animation Comedy", "price": "1.5"}
    assert no_year.text == "No Year."


def test_first_token_seq_is_the_title_where_none_is_called_so(folder: Path) -> None:
    (folder / "x.item").write_text("item_id:token\tyear:token\tabout:token_seq\n7\t1995\tA toy\n")
    [item] = RecBoleSource(folder).items(pytest.fail)
    assert item.title == "A toy"


def test_interactions_and_users(folder: Path) -> None:
    source = RecBoleSource(folder)
    [interactions] = source.interactions(pytest.fail)
    assert interactions.rows.to_pylist() == [{"user_id": "1", "item_id": "7", "timestamp": 850_000_000, "rating": 3.0}]
    [users] = source.users(pytest.fail)
    assert users.rows.to_pylist() == [{"user_id": "1", "age": "24"}]


def test_bad_rows_are_rejected_with_file_and_line(folder: Path) -> None:
    with (folder / "x.inter").open("a") as file:
        file.write("1\t7\t3\tlate\n")
    rejects: list[Reject] = []
    list(RecBoleSource(folder).interactions(rejects.append))
    assert rejects == [Reject("x.inter", 3, Reason.BAD_TIMESTAMP, "timestamp is 'late'")]


def test_header_must_be_typed(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_text("item_id:token\ttitle\n")
    with pytest.raises(SourceError, match="'title' is not name:type"):
        field_types(path)


def test_hidden_files_are_passed_over(folder: Path) -> None:
    (folder / "._x.inter").write_bytes(b"\0\5")
    assert len(list(RecBoleSource(folder).items(pytest.fail))) == 2


def test_exactly_one_data_set(folder: Path) -> None:
    (folder / "y.inter").touch()
    with pytest.raises(SourceError, match=r"x\.inter, y\.inter"):
        RecBoleSource(folder)


def test_missing_item_file(folder: Path) -> None:
    (folder / "x.item").unlink()
    with pytest.raises(SourceError, match=r"x\.item is missing"):
        RecBoleSource(folder)
