from pathlib import Path

import pytest

from data_tools.build import build
from data_tools.rejects import Reason, Reject
from data_tools.source import SourceError
from data_tools.sources.recbole import RecBoleSource, field_types
from data_tools.verify import verify
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder


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


def test_a_field_called_text_or_title_does_not_replace_the_composed_ones(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "x.item").write_text(
        "item_id:token\tName:token\ttext:token_seq\ttitle:float\tgenre:token_seq\n"
        "7\tZero\tabout zero\t1\tdrama\n8\tOne\t\t2\tcomedy\n"
    )
    output = tmp_path_factory.mktemp("text") / "shards"
    index = build(RecBoleSource(folder), "recbole", output)
    read = [(record["title"], record["text"], record["genre"]) for record in ItemShards(ShardFolder(output))]
    assert read == [("Zero", "Zero. about zero. drama.", "drama"), ("One", "One. comedy.", "comedy")]
    assert index.text_fields == ["title", "text", "genre"]


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


def test_a_field_that_appears_twice_is_named(folder: Path) -> None:
    (folder / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\ttimestamp:token\n1\t7\t3\t4\n")
    with pytest.raises(SourceError, match=r"x\.inter: field timestamp appears twice"):
        RecBoleSource(folder)


def test_hidden_files_are_passed_over(folder: Path) -> None:
    (folder / "._x.inter").write_bytes(b"\0\5")
    assert len(list(RecBoleSource(folder).items(pytest.fail))) == 2


def test_exactly_one_data_set(folder: Path) -> None:
    (folder / "y.inter").touch()
    with pytest.raises(SourceError, match=r"x\.inter, y\.inter"):
        RecBoleSource(folder)


def test_without_an_item_file_the_items_are_those_of_the_interactions(folder: Path) -> None:
    (folder / "x.item").unlink()
    with (folder / "x.inter").open("a") as file:
        file.write("1\t5\t3\t9e8\n2\t7\t3\t9e8\n2\t\t3\t9e8\n")
    items = list(RecBoleSource(folder).items(pytest.fail))
    assert [(item.item_id, item.title, item.text, item.line) for item in items] == [
        ("7", "7", "", 2),
        ("5", "5", "", 3),
    ]


def untimed(path: Path, *pairs: tuple[str, str]) -> None:
    lines = ["user_id:token\titem_id:token", *("\t".join(pair) for pair in pairs)]
    path.write_text("\n".join(lines) + "\n")


def rows_of(source: RecBoleSource) -> list[tuple[str, str, int]]:
    batches = [batch.rows for batch in source.interactions(pytest.fail)]
    return [(row["user_id"], row["item_id"], row["timestamp"]) for rows in batches for row in rows.to_pylist()]


def test_without_timestamps_the_order_of_the_rows_is_that_of_time(folder: Path) -> None:
    untimed(folder / "x.inter", ("1", "7"), ("2", "8"), ("1", "8"))
    assert rows_of(RecBoleSource(folder)) == [("1", "7", 1), ("2", "8", 2), ("1", "8", 3)]
    assert rows_of(RecBoleSource(folder, "ms"))[2] == ("1", "8", 3), "places have no unit"


def test_splits_of_a_benchmark_are_read_in_the_order_of_time(folder: Path) -> None:
    (folder / "x.inter").unlink()
    untimed(folder / "x.test.inter", ("1", "9"))
    untimed(folder / "x.train.inter", ("1", "7"), ("2", "8"))
    untimed(folder / "x.valid.inter", ("1", "8"))
    source = RecBoleSource(folder)
    assert rows_of(source) == [("1", "7", 1), ("2", "8", 2), ("1", "8", 3), ("1", "9", 4)]
    assert [item.item_id for item in source.items(pytest.fail)] == ["7", "8"]  # of x.item
    (folder / "x.item").unlink()
    assert [item.item_id for item in RecBoleSource(folder).items(pytest.fail)] == ["7", "8", "9"]


@pytest.mark.parametrize("other", ["x.inter", "y.valid.inter", "x.old.inter"])
def test_splits_of_one_data_set_alone(folder: Path, other: str) -> None:
    (folder / "x.inter").rename(folder / "x.train.inter")
    (folder / other).touch()
    with pytest.raises(SourceError, match=r"must hold one \.inter file, or the splits"):
        RecBoleSource(folder)


def test_splits_with_and_without_timestamps_do_not_go_together(folder: Path) -> None:
    (folder / "x.inter").rename(folder / "x.train.inter")
    untimed(folder / "x.test.inter", ("1", "9"))
    with pytest.raises(SourceError, match=r"x\.test\.inter: no field timestamp"):
        RecBoleSource(folder)


def test_histories_that_repeat_themselves_are_refused(folder: Path) -> None:
    (folder / "x.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t7 8\t9\n")
    with pytest.raises(SourceError, match=r"x\.inter repeats histories in item_id_list: give the \.inter file"):
        RecBoleSource(folder)


def test_ids_alone_are_built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "x.item").unlink()
    untimed(folder / "x.inter", ("1", "7"), ("1", "8"), ("1", "9"), ("2", "8"), ("2", "7"), ("2", "9"))
    (folder / "x.user").unlink()
    output = tmp_path_factory.mktemp("ids") / "shards"
    index = build(RecBoleSource(folder), "recbole", output)
    assert (index.counts.items, index.counts.interactions, index.counts.rejects) == (3, 6, {})
    assert not verify(output)
