from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError
from data_tools.sources.parquet import ParquetSource

COLUMNS = "user_id=uid,item_id=sku,item_id=id,timestamp=ts,title=name"


@pytest.fixture
def options(tmp_path: Path, image_bytes: Callable[..., bytes]) -> list[object]:
    """Two files of interactions, items and users, none with our names."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "7.jpg").write_bytes(image_bytes())
    for part, users in enumerate([[1, 2], [1]]):
        times = [1_500_000_000_999 + part * 1000 + row for row in range(len(users))]
        table = {"junk": [[0]] * len(users), "ts": times, "sku": [7] * len(users), "uid": users}
        pq.write_table(pa.table(table), tmp_path / f"clicks-{part}.parquet")
    items = {"id": [7, 8], "name": ["Seven", "Eight"], "image": ["7.jpg", None], "colour": ["red", None]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    pq.write_table(pa.table({"uid": [1], "age": [30]}), tmp_path / "users.parquet")
    return [
        "--interactions", f"{tmp_path}/clicks-*.parquet", "--items", tmp_path / "items.parquet",
        "--users", tmp_path / "users.parquet", "--columns", COLUMNS, "--timestamp-unit", "ms",
    ]  # fmt: skip


def write_clicks(folder: Path, **columns: pa.Array | list) -> list[object]:
    """Options for one file of interactions with our names."""
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], **columns}), folder / "clicks.parquet")
    pq.write_table(pa.table({"item_id": ["i"], "title": ["T"]}), folder / "items.parquet")
    return ["--interactions", folder / "clicks.parquet", "--items", folder / "items.parquet"]


def test_of_a_click_log_alone_clicks_are_interactions(tmp_path: Path) -> None:
    log = {"user_id": ["u", "u", "v"], "item_id": ["i", "j", "i"], "timestamp": [5, 5, 6], "click": [True, False, None]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    pq.write_table(pa.table({"item_id": ["i", "j"], "title": ["T", "U"]}), tmp_path / "items.parquet")
    options = ["--impressions", tmp_path / "log.parquet", "--items", tmp_path / "items.parquet"]
    assert read_source("parquet", *options).interactions == [("u", "i", 5, None)]


def test_mapped_columns_of_several_files(options: list[object], tmp_path: Path) -> None:
    reading = read_source("parquet", *options)
    assert reading.interactions == [
        ("1", "7", 1_500_000_000, None), ("2", "7", 1_500_000_001, None), ("1", "7", 1_500_000_001, None)
    ]  # fmt: skip
    assert reading.lines == [("clicks-0.parquet", 1), ("clicks-0.parquet", 2), ("clicks-1.parquet", 1)]
    seven, eight = reading.items
    assert (seven.line, seven.item_id, seven.title, seven.fields) == (1, "7", "Seven", {"colour": "red"})
    assert (seven.image, eight.image) == (tmp_path / "images" / "7.jpg", None)
    assert reading.users == [{"user_id": "1", "age": "30"}]
    assert reading.rejects == []


def test_options_are_those_that_decide_the_content(options: list[object]) -> None:
    assert make_source("parquet", *options).options() == {
        "columns": COLUMNS,
        "timestamp_unit": "ms",
        "not_read": ["junk"],
    }


def test_columns_of_interactions_that_are_not_read_are_in_the_options(tmp_path: Path) -> None:
    options = write_clicks(tmp_path, timestamp=[1], brand=["x"], price=[9])
    assert make_source("parquet", *options).options()["not_read"] == ["brand", "price"]


@pytest.mark.parametrize(
    ("timestamp", "unit"),
    [
        ([1_500_000_000], "s"),
        ([1_500_000_000.9], "s"),
        (["1500000000999"], "ms"),
        ([1_500_000_000_999_999], "us"),
        ([1_500_000_000_999_999_999], "ns"),
        ([datetime(2017, 7, 14, 2, 40, 0, 999, tzinfo=UTC)], "ms"),
    ],
)
def test_units(tmp_path: Path, timestamp: list, unit: str) -> None:
    reading = read_source("parquet", *write_clicks(tmp_path, timestamp=timestamp), "--timestamp-unit", unit)
    assert reading.interactions == [("u", "i", 1_500_000_000, None)]


def test_dates_and_times_before_1970(tmp_path: Path) -> None:
    day = read_source("parquet", *write_clicks(tmp_path, timestamp=[date(2018, 9, 20)]))
    assert day.interactions == [("u", "i", 1537401600, None)]
    old = read_source("parquet", *write_clicks(tmp_path, timestamp=[-1]), "--timestamp-unit", "ms")
    assert old.interactions == [("u", "i", -1, None)]


def test_rejects_name_file_and_row(tmp_path: Path) -> None:
    columns = {
        "user_id": ["u", None, "u", "u"],
        "item_id": ["i"] * 4,
        "timestamp": [1.0, 1.0, float("nan"), 1.0],
        "rating": [None, 1.0, 1.0, float("inf")],
    }
    reading = read_source("parquet", *write_clicks(tmp_path, **columns))
    assert reading.interactions == [("u", "i", 1, None)]
    assert reading.reasons() == [
        ("clicks.parquet", 2, "empty_id"),
        ("clicks.parquet", 3, "bad_timestamp"),
        ("clicks.parquet", 4, "bad_rating"),
    ]


def test_build(options: list[object], tmp_path: Path) -> None:
    index = build_twice("parquet", options, tmp_path)
    assert index.counts.model_dump() == {
        "users": 2, "items": 2, "interactions": 3, "impressions": 0, "images": 1,
        "rejects": {}, "dropped": {}, "cleaned": {}
    }  # fmt: skip
    assert index.build["timestamp_unit"] == "ms"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user_id=uid,item_id=sku", r"clicks-0\.parquet: no column timestamp; map one with --columns, it has junk, ts"),
        (f"{COLUMNS},rating=stars", "--columns: no file has a column stars"),
        (COLUMNS.removesuffix(",title=name"), r"items\.parquet: needs a column title or text"),
    ],
)
def test_columns_that_are_not_there(options: list[object], columns: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        make_source("parquet", *options, "--columns", columns)


def test_wrong_unit_and_users_of_different_columns(tmp_path: Path) -> None:
    options = write_clicks(tmp_path, timestamp=[1])
    with pytest.raises(SourceError, match="--timestamp-unit is 'minutes'"):
        ParquetSource([str(options[1])], [str(options[3])], timestamp_unit="minutes")
    for name in ("age", "town"):
        pq.write_table(pa.table({"user_id": ["u"], name: ["x"]}), tmp_path / f"users-{name}.parquet")
    with pytest.raises(SourceError, match="--users: the files must all have the same columns"):
        make_source("parquet", *options, "--users", f"{tmp_path}/users-*")


def test_other_columns_of_any_kind(tmp_path: Path) -> None:
    columns = {
        "tags": [["a", "b"]],
        "size": [{"cm": 3}],
        "vector": pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2)),
        "scores": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        "photo": [b"\xff"],
        "hash": pa.array([b"1234"], pa.binary(4)),
        "wait": pa.array([3], pa.duration("s")),
        "nothing": pa.nulls(1),
    }
    options = write_clicks(tmp_path, timestamp=[1], **columns)
    pq.write_table(pa.table({"item_id": ["i"], "title": [b"T"], **columns}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"user_id": [b"u"], **columns}), tmp_path / "users.parquet")
    options = [*options, "--users", tmp_path / "users.parquet"]
    fields = {
        "tags": '["a", "b"]',
        "size": '{"cm": 3}',
        "vector": "[0.5, 1.0]",
        "scores": '[["a", 1]]',
        "wait": "3",
        "nothing": "",
    }
    reading = read_source("parquet", *options)
    assert (reading.items[0].title, reading.items[0].fields) == ("T", fields)
    assert reading.users == [{"user_id": "u", **fields}]
    assert reading.interactions == [("u", "i", 1, None)]
    assert build_twice("parquet", options, tmp_path).build["left_out"] == ["hash", "photo"]


def test_images_in_the_file(tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    """As data sets of Hugging Face store them: the bytes, or the path of a file."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(image_bytes("PNG"))
    cells = [
        {"bytes": image_bytes(), "path": "0.jpg"},
        {"bytes": None, "path": "1.png"},
        None,
        {"bytes": b"", "path": ""},
    ]
    options = write_clicks(tmp_path, timestamp=[1], item_id=["0"])
    items = {"item_id": ["0", "1", "2", "3"], "title": ["T"] * 4, "image": cells}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    reading = read_source("parquet", *options)
    assert [item.image for item in reading.items] == [image_bytes(), tmp_path / "images" / "1.png", None, None]
    assert build_twice("parquet", options, tmp_path).counts.images == 2


def test_a_column_of_image_bytes(tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    options = write_clicks(tmp_path, timestamp=[1])
    items = {"item_id": ["i", None, "j"], "title": ["T"] * 3, "picture": [image_bytes(), b"", b"no picture"]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    index = build_twice("parquet", [*options, "--columns", "image=picture"], tmp_path)
    assert (index.counts.images, index.counts.rejects) == (1, {"bad_image": 1, "empty_id": 1})


def test_partitions_of_hive_are_columns(tmp_path: Path) -> None:
    options = write_clicks(tmp_path, timestamp=[1])
    for name, item in (("kind=a%2Fb/sold=1", "i"), ("kind=__HIVE_DEFAULT_PARTITION__/sold=0", "j")):
        (tmp_path / "items" / name).mkdir(parents=True)
        pq.write_table(pa.table({"item_id": [item], "title": ["T"]}), tmp_path / "items" / name / "part-0.parquet")
    (tmp_path / "items" / "_SUCCESS").touch()
    reading = read_source("parquet", *options[:2], "--items", tmp_path / "items")
    assert {item.item_id: item.fields for item in reading.items} == {
        "i": {"kind": "a/b", "sold": "1"}, "j": {"kind": "", "sold": "0"}
    }  # fmt: skip


def test_a_path_with_brackets_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]" / "x*"
    folder.mkdir(parents=True)
    assert read_source("parquet", *write_clicks(folder, timestamp=[1])).interactions == [("u", "i", 1, None)]


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    options = write_clicks(tmp_path, timestamp=[1])
    titles = [f"title {number}" * 3 for number in range(40_000)]
    for checksums in (False, True):
        items = pa.table({"item_id": titles, "title": titles})
        pq.write_table(items, tmp_path / "items.parquet", row_group_size=20_000, write_page_checksum=checksums)
        data = bytearray((tmp_path / "items.parquet").read_bytes())
        middle = len(data) * 3 // 4
        data[middle : middle + 300] = bytes(300)
        (tmp_path / "items.parquet").write_bytes(data)
        with pytest.raises(
            SourceError, match=r"items\.parquet: cannot be read from row \d+ on .*download the file again"
        ):
            read_source("parquet", *options)


def test_mapped_columns_of_impressions(options: list[object], tmp_path: Path) -> None:
    shown = {"uid": [1, 3], "sku": [7, 8], "ts": [1_500_000_000_999, 0], "clicked": [True, None], "place": [3, None]}
    pq.write_table(pa.table(shown), tmp_path / "shown.parquet")
    options[options.index(COLUMNS)] = COLUMNS + ",click=clicked"
    source = make_source("parquet", *options, "--impressions", tmp_path / "shown.parquet")
    [batch] = source.impressions(pytest.fail)
    assert batch.rows.schema.names == ["user_id", "item_id", "timestamp", "request_id", "label_click", "shown_place"]
    assert [tuple(row.values()) for row in batch.rows.to_pylist()] == [
        ("1", "7", 1_500_000_000, None, 1.0, "3"), ("3", "8", 0, None, None, None)
    ]  # fmt: skip
    assert source.totals().impressions == 2


def test_impressions_without_a_label_and_of_different_columns(tmp_path: Path) -> None:
    options = write_clicks(tmp_path, timestamp=[1])
    shown = {"user_id": ["u"], "item_id": ["i"], "timestamp": [1]}
    pq.write_table(pa.table(shown), tmp_path / "shown-0.parquet")
    with pytest.raises(SourceError, match="needs a column click, or columns label_<head>; it has user_id"):
        make_source("parquet", *options, "--impressions", tmp_path / "shown-0.parquet")
    pq.write_table(pa.table(shown | {"click": [1]}), tmp_path / "shown-0.parquet")
    pq.write_table(pa.table(shown | {"click": [1], "place": [1]}), tmp_path / "shown-1.parquet")
    with pytest.raises(SourceError, match="--impressions: the files must all have the same columns"):
        make_source("parquet", *options, "--impressions", f"{tmp_path}/shown-*.parquet")
