from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

MAY = 1_684_000_000  # seconds


def times(*seconds: int) -> list[datetime]:
    return [datetime.fromtimestamp(MAY + second, UTC).replace(tzinfo=None) for second in seconds]


def write_split(folder: Path, histories: list[tuple], impressions: list[tuple], clicked: bool = True) -> None:
    """Histories: (user, articles, seconds). Impressions: (user, seconds, shown, clicked, age)."""
    folder.mkdir(parents=True)
    moment, ids = pa.timestamp("us"), pa.list_(pa.int32())
    history = {
        "user_id": pa.array([row[0] for row in histories], pa.uint32()),
        "impression_time_fixed": pa.array([times(*row[2]) for row in histories], pa.list_(moment)),
        "scroll_percentage_fixed": pa.array([[100.0] * len(row[1]) for row in histories], pa.list_(pa.float32())),
        "article_id_fixed": pa.array([row[1] for row in histories], ids),
        "read_time_fixed": pa.array([[3.0] * len(row[1]) for row in histories], pa.list_(pa.float32())),
    }
    behaviors = {
        "impression_id": pa.array(range(len(impressions)), pa.uint32()),
        "article_id": pa.nulls(len(impressions), pa.int32()),
        "impression_time": pa.array([times(row[1])[0] for row in impressions], moment),
        "article_ids_inview": pa.array([row[2] for row in impressions], ids),
        "article_ids_clicked": pa.array([row[3] for row in impressions], ids),
        "user_id": pa.array([row[0] for row in impressions], pa.uint32()),
        "is_subscriber": pa.array([True] * len(impressions)),
        "gender": pa.nulls(len(impressions), pa.int8()),
        "postcode": pa.array([2] * len(impressions), pa.int8()),
        "age": pa.array([row[4] for row in impressions], pa.int8()),
    }
    if not clicked:
        del behaviors["article_ids_clicked"]
    pq.write_table(pa.table(history), folder / "history.parquet")
    pq.write_table(pa.table(behaviors), folder / "behaviors.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ebnerd_demo"
    write_split(
        folder / "train",
        [(1, [10, 11], (0, 5)), (2, [], ())],
        [(1, 100, [12, 10], [12], 50), (2, 101, [10], [], None), (2, 102, [10, 12], [10, 12], None)],
    )
    write_split(folder / "validation", [(1, [11, 12], (5, 103)), (3, [10], (7,))], [(3, 200, [12], [12], 20)])
    write_split(folder / "test", [(4, [11], (300,))], [(4, 400, [12], None, 30)], clicked=False)
    articles = {
        "article_id": pa.array([10, 11, 12], pa.int32()),
        "title": ["Zlatans paradis", "To", "Tre"],
        "subtitle": ["Til salg.", "", None],
        "last_modified_time": pa.array(times(0, 0, 0), pa.timestamp("us")),
        "premium": [False] * 3,
        "body": ["Drøm", "", "x"],
        "image_ids": [[1], None, []],
        "article_type": ["article_default"] * 3,
        "ner_clusters": [["Zlatan"], [], []],
        "subcategory": pa.array([[196, 271], [], []], pa.list_(pa.int16())),
        "category_str": ["sport", "nyheder", None],
        "total_inviews": pa.array([None, 1, 2], pa.int32()),
    }
    pq.write_table(pa.table(articles), folder / "articles.parquet")
    return folder


def test_the_first_history_of_each_user_and_all_clicks(folder: Path, tmp_path: Path) -> None:
    reading = read_source("ebnerd", "--input", folder)
    assert [(user, item, time - MAY) for user, item, time, _ in reading.interactions] == [
        ("1", "10", 0), ("1", "11", 5), ("3", "10", 7),
        ("1", "12", 100), ("2", "10", 102), ("2", "12", 102), ("3", "12", 200),
    ]  # fmt: skip
    assert reading.lines[-1] == ("validation/behaviors.parquet", 1)
    index = build_twice("ebnerd", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (3, 3, 7)


def test_what_was_in_view_with_its_clicks(folder: Path, tmp_path: Path) -> None:
    batches = make_source("ebnerd", "--input", folder, "--splits", "test", "validation", "train").impressions(
        pytest.fail
    )
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    assert [(row["user_id"], row["item_id"], row["request_id"], row["label_click"]) for row in rows] == [
        ("1", "12", "0", 1), ("1", "10", "0", 0), ("2", "10", "1", 0), ("2", "10", "2", 1), ("2", "12", "2", 1),
        ("3", "12", "0", 1),
    ]  # fmt: skip
    assert rows[0]["timestamp"] == MAY + 100
    index = build_twice("ebnerd", ["--input", folder], tmp_path)
    assert (index.heads, index.counts.impressions) == (["click"], 6)


def test_articles_and_users(folder: Path) -> None:
    reading = read_source("ebnerd", "--input", folder)
    first, _, third = reading.items
    assert (first.item_id, first.title, first.text) == ("10", "Zlatans paradis", "Zlatans paradis. Til salg.")
    assert first.fields == {"category": "sport", "article_type": "article_default", "body": "Drøm"}
    assert (third.text, third.fields["category"]) == ("Tre.", "")
    assert reading.users == [
        {"user_id": "1", "is_subscriber": "true", "gender": "", "postcode": "2", "age": "50"},
        {"user_id": "2", "is_subscriber": "true", "gender": "", "postcode": "2", "age": ""},
        {"user_id": "3", "is_subscriber": "true", "gender": "", "postcode": "2", "age": "20"},
    ]


def test_the_test_split_has_histories_only(folder: Path) -> None:
    reading = read_source("ebnerd", "--input", folder, "--splits", "test")
    assert [row[:2] for row in reading.interactions] == [("4", "11")]


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "validation" / "history.parquet").unlink()
    with pytest.raises(SourceError, match=r"validation/history\.parquet is missing"):
        make_source("ebnerd", "--input", folder)
    pq.write_table(pa.table({"article_id": [1]}), folder / "articles.parquet")
    with pytest.raises(SourceError, match=r"articles\.parquet: no column article_type, body, category_str"):
        make_source("ebnerd", "--input", folder)
