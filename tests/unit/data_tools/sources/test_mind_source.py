from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.mind import SHOWN, MindSource

NINE = 1573463158  # 11/11/2019 9:05:58 AM, UTC


def news(item_id: str, title: str = "Title", abstract: str = "Abstract") -> str:
    return f'{item_id}\tsports\tsoccer\t{title}\t{abstract}\thttps://x\t[{{"Label": "A"}}]\t[]\n'


def write_folder(folder: Path, news_lines: str, behaviors: str) -> Path:
    folder.mkdir()
    (folder / "news.tsv").write_text(news_lines)
    (folder / "behaviors.tsv").write_text(behaviors)
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_folder(
        tmp_path / "MINDlarge_train",
        news("N1", 'A "quoted" title') + news("N2") + news("N3", "Third", "") + news("N4"),
        "1\tU1\t11/11/2019 12:05:58 PM\tN1 N2\tN4-1 N3-0\n"
        "2\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0 N1-1\n"
        "3\tU2\t11/11/2019 12:05:58 AM\t\tN1-0 N2-1\n",
    )


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    return write_folder(
        tmp_path / "MINDlarge_dev",
        news("N2") + news("N1", "Another title") + news("N5"),
        "1\tU3\t11/15/2019 8:55:22 AM\tN5\tN9-1\n2\tU1\t11/15/2019 8:55:22 AM\tN1 N2\tN5-1\n",
    )


def test_news(train: Path) -> None:
    reading = read_source("mind", "--input", train)
    assert [(item.line, item.item_id, item.title) for item in reading.items[:3]] == [
        (1, "N1", 'A "quoted" title'), (2, "N2", "Title"), (3, "N3", "Third")
    ]  # fmt: skip
    assert [item.text for item in reading.items[:3]] == ['A "quoted" title. Abstract.', "Title. Abstract.", "Third."]
    assert reading.items[0].fields == {"category": "sports", "subcategory": "soccer"}
    assert reading.users == reading.rejects == []


def test_history_once_before_the_earliest_impression_and_every_click(train: Path) -> None:
    reading = read_source("mind", "--input", train)
    assert sorted(reading.interactions, key=lambda row: (row[0], row[2])) == [
        ("U1", "N1", NINE - 2, None),
        ("U1", "N2", NINE - 1, None),
        ("U1", "N3", NINE, None),
        ("U1", "N1", NINE, None),
        ("U1", "N4", NINE + 3 * 3600, None),
        ("U2", "N2", NINE - 9 * 3600, None),
    ]
    assert dict(zip(reading.interactions, reading.lines, strict=True))["U1", "N2", NINE - 1, None][1] == 2


def test_every_labelled_article_was_shown(train: Path) -> None:
    with (train / "behaviors.tsv").open("a") as file:
        file.write("4\tU4\t11/11/2019 9:05:58 AM\t\tN1 N2-0 N3-x N4-1\n5\tU1\tnow\t\tN1-0\n")
    rows = []
    for batch in MindSource([train]).impressions(pytest.fail):
        assert batch.rows.schema == SHOWN
        rows += [
            (line, *row.values()) for line, row in zip(batch.lines.to_pylist(), batch.rows.to_pylist(), strict=True)
        ]
    assert rows == [
        (1, "U1", "N4", NINE + 3 * 3600, "behaviors.tsv:1", 1.0, "0"),
        (1, "U1", "N3", NINE + 3 * 3600, "behaviors.tsv:1", 0.0, "1"),
        (2, "U1", "N3", NINE, "behaviors.tsv:2", 1.0, "0"),
        (2, "U1", "N4", NINE, "behaviors.tsv:2", 0.0, "1"),
        (2, "U1", "N1", NINE, "behaviors.tsv:2", 1.0, "2"),
        (3, "U2", "N1", NINE - 9 * 3600, "behaviors.tsv:3", 0.0, "0"),
        (3, "U2", "N2", NINE - 9 * 3600, "behaviors.tsv:3", 1.0, "1"),
        (4, "U4", "N2", NINE, "behaviors.tsv:4", 0.0, "1"),
        (4, "U4", "N4", NINE, "behaviors.tsv:4", 1.0, "3"),
    ]


def test_requests_of_different_folders_differ(train: Path, dev: Path) -> None:
    batches = MindSource([train, dev]).impressions(pytest.fail)
    requests = {request for batch in batches for request in batch.rows["request_id"].to_pylist()}
    assert len(requests) == 5


def test_the_first_of_equally_early_impressions_has_the_history(tmp_path: Path) -> None:
    behaviors = "1\tU1\t11/11/2019 9:05:58 AM\tN1\t\n2\tU1\t11/11/2019 9:05:58 AM\tN2\t\n"
    reading = read_source("mind", "--input", write_folder(tmp_path / "t", news("N1"), behaviors))
    assert reading.interactions == [("U1", "N1", NINE - 1, None)]


def test_unlabelled_impressions_of_the_test_folder_are_no_clicks(tmp_path: Path) -> None:
    behaviors = "1\tU1\t11/11/2019 9:05:58 AM\tN1\tN1 N2\n"
    reading = read_source("mind", "--input", write_folder(tmp_path / "t", news("N1"), behaviors))
    assert [row[1] for row in reading.interactions] == ["N1"]


def test_folders_go_together(train: Path, dev: Path) -> None:
    reading = read_source("mind", "--input", train, dev)
    assert [(item.file, item.item_id) for item in reading.items[4:]] == [
        ("MINDlarge_dev/news.tsv", "N1"),  # with other content: for the builder to reject
        ("MINDlarge_dev/news.tsv", "N5"),
    ]
    assert reading.rejects == []
    assert sum(row[:2] == ("U1", "N2") for row in reading.interactions) == 1


def test_rejects(train: Path) -> None:
    with (train / "behaviors.tsv").open("a") as file:
        file.write("4\tU4\t13/11/2019 9:05:58 AM\t\tN1-1\n5\t\t11/11/2019 9:05:58 AM\tN1\t\n6\tU1\n")
    with (train / "news.tsv").open("a") as file:
        file.write("N9\tsports\n")
    assert read_source("mind", "--input", train).reasons() == [
        ("news.tsv", 5, "wrong_field_count"),
        ("behaviors.tsv", 6, "wrong_field_count"),
        ("behaviors.tsv", 4, "bad_timestamp"),
        ("behaviors.tsv", 5, "empty_id"),
    ]


def test_build(train: Path, dev: Path, tmp_path: Path) -> None:
    index = build_twice("mind", ["--input", train, dev], tmp_path)
    assert index.counts.model_dump() == {
        "users": 3, "items": 5, "interactions": 8, "impressions": 8, "images": 0, "dropped": {}, "cleaned": {},
        "rejects": {"duplicate_item": 1, "unknown_item": 2},  # N9, as a click and as what was shown
    }  # fmt: skip


def test_missing_file_and_folder_given_twice(train: Path) -> None:
    with pytest.raises(SourceError, match="given twice"):
        MindSource([train, train])
    (train / "behaviors.tsv").unlink()
    with pytest.raises(SourceError, match=r"behaviors\.tsv is missing"):
        MindSource([train])


def test_nothing_in_behaviors(train: Path) -> None:
    (train / "behaviors.tsv").write_text("")
    assert read_source("mind", "--input", train).interactions == []
