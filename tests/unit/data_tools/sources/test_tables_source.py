from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import read_source

from data_tools.build import build
from data_tools.errors import DataToolsError
from data_tools.rejects import Reason, Reject
from data_tools.source import Item, SourceError
from data_tools.sources.tables import TablesSource


def items_of(folder: Path) -> tuple[list[Item], list[Reject]]:
    rejects: list[Reject] = []
    return list(TablesSource(folder).items(rejects.append)), rejects


def test_items_with_lines_further_columns_and_images(write_tables: Callable[..., Path]) -> None:
    folder = write_tables()
    items, rejects = items_of(folder)
    assert rejects == []
    assert items[0] == Item(
        "items.tsv", 2, "a", "Alpha", "First letter", {"genre": "greek"}, folder / "images" / "a.jpg"
    )
    assert [(item.line, item.item_id, item.image) for item in items[1:]] == [(3, "b", None), (4, "c", None)]


def test_parquet_tables_with_integer_ids(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": [7], "title": ["T"]}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"user_id": [1], "item_id": [7], "timestamp": [5]}), tmp_path / "interactions.parquet")
    items, _ = items_of(tmp_path)
    assert (items[0].item_id, items[0].text, items[0].line) == ("7", "", 1)
    [batch] = TablesSource(tmp_path).interactions(pytest.fail)
    assert batch.rows.to_pylist() == [{"user_id": "1", "item_id": "7", "timestamp": 5, "rating": None}]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "x/../../secret.jpg"])
def test_image_outside_the_folder_is_rejected(write_tables: Callable[..., Path], name: str) -> None:
    items, rejects = items_of(write_tables(items=f"item_id\ttitle\timage\na\tAlpha\t{name}\n"))
    assert items[0].image is None
    assert rejects == [Reject("items.tsv", 2, Reason.BAD_IMAGE, f"{name!r} is outside images/")]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"items": None}, r"has no items\.tsv or items\.parquet"),
        ({"interactions": None}, r"for items alone, give an interactions\.tsv with only its header"),
        ({"interactions": "user_id\titem_id\n"}, r"interactions\.tsv: no column timestamp; it has user_id, item_id"),
        ({"items": "item_id\tname\n"}, r"items\.tsv: needs a column title or text"),
        ({"users": "id\n"}, r"users\.tsv: no column user_id"),
        ({"impressions": "user_id\titem_id\tclick\n"}, r"impressions\.tsv: no column timestamp"),
        (
            {"impressions": "user_id\titem_id\ttimestamp\tclicks\n"},
            r"needs a column click, or columns label_<head>; it has user_id, item_id, timestamp, clicks",
        ),
        ({"impressions": "user_id\titem_id\ttimestamp\tlabel_\n"}, r"needs a column click, or columns label_<head>"),
    ],
)
def test_missing_tables_and_columns(write_tables: Callable[..., Path], tables: dict, message: str) -> None:
    folder = write_tables(**tables)
    with pytest.raises(SourceError, match=message):
        TablesSource(folder)


def test_milliseconds_need_their_unit(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu1\ta\t1500000000999\nu2\tb\t1500000001999\n")
    with pytest.raises(
        DataToolsError, match=r"no usable interaction \(2 rejected, such as interactions\.tsv, line 3: bad_"
    ) as raised:
        build(TablesSource(folder), "tables", tmp_path / "shards")
    assert "--timestamp-unit" in str(raised.value)
    reading = read_source("tables", "--input", folder, "--timestamp-unit", "ms")
    assert [row[2] for row in reading.interactions] == [1_500_000_000, 1_500_000_001]
    index = build(TablesSource(folder, "ms"), "tables", tmp_path / "shards")
    assert index.build["timestamp_unit"] == "ms"


def test_parquet_tables_with_columns_of_any_kind(tmp_path: Path) -> None:
    others = {"tags": [["a"]], "size": [{"cm": 3}], "photo": [b"\xff"]}
    pq.write_table(pa.table({"item_id": [7], "title": ["T"], **others}), tmp_path / "items.parquet")
    clicks = {"user_id": [1], "item_id": [7], "timestamp": [5], **others}
    pq.write_table(pa.table(clicks), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"user_id": [1], **others}), tmp_path / "users.parquet")
    reading = read_source("tables", "--input", tmp_path)
    assert reading.items[0].fields == {"tags": '["a"]', "size": '{"cm": 3}'}
    assert reading.users == [{"user_id": "1", "tags": '["a"]', "size": '{"cm": 3}'}]
    assert reading.interactions == [("1", "7", 5, None)]
    assert TablesSource(tmp_path).options() == {"left_out": ["photo"], "not_read": ["photo", "size", "tags"]}


def test_impressions_with_a_click_a_request_and_context(write_tables: Callable[..., Path]) -> None:
    columns = "user_id\titem_id\tposition\ttimestamp\tclick\trequest_id"
    source = TablesSource(write_tables(impressions=f"{columns}\nu\ta\t1\t5\t1\tr\nu\tb\t\t6\t\t\n"))
    [batch] = source.impressions(pytest.fail)
    assert source.totals().impressions == 3  # lines, with the header
    assert (batch.file, batch.lines.to_pylist()) == ("impressions.tsv", [2, 3])
    assert batch.rows.to_pylist() == [
        {"user_id": "u", "item_id": "a", "timestamp": 5, "request_id": "r", "label_click": 1, "shown_position": "1"},
        {"user_id": "u", "item_id": "b", "timestamp": 6}
        | dict.fromkeys(["request_id", "label_click", "shown_position"]),
    ]


def test_with_labels_of_several_heads_click_is_context(write_tables: Callable[..., Path]) -> None:
    columns = "user_id\titem_id\ttimestamp\tlabel_like\tclick\tlabel_buy"
    [batch] = TablesSource(write_tables(impressions=f"{columns}\nu\ta\t5\t1\tx\t0\n")).impressions(pytest.fail)
    assert batch.rows.schema.names[4:] == ["label_like", "label_buy", "shown_click"]
    assert list(batch.rows.to_pylist()[0].values())[3:] == [None, 1, 0, "x"]


def test_tables_without_impressions(write_tables: Callable[..., Path]) -> None:
    source = TablesSource(write_tables())
    assert list(source.impressions(pytest.fail)) == []
    assert source.totals().impressions is None


def test_without_interactions_the_clicks_are_those(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    rows = "u\ta\t5\t1\nu\tb\t6\t0\nv\tb\t7\t\nv\ta\t-\t1\nv\tb\t9\t1\n"
    folder = write_tables(impressions=f"user_id\titem_id\ttimestamp\tclick\n{rows}")
    (folder / "interactions.tsv").unlink()
    reading = read_source("tables", "--input", folder)
    assert reading.interactions == [("u", "a", 5, None), ("v", "b", 9, None)]
    index = build(TablesSource(folder), "tables", tmp_path / "out")
    assert (index.counts.users, index.counts.interactions, index.counts.impressions) == (2, 2, 4)
    assert index.counts.rejects == {"bad_timestamp": 1}, "counted once"


def test_a_log_of_what_was_shown_is_no_table_of_interactions(
    write_tables: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\tclick\nu\ta\t5\t0\n")
    assert read_source("tables", "--input", folder).interactions == [("u", "a", 5, None)]
    assert "interactions.tsv: ignoring labels (click)" in capsys.readouterr().err
