import gzip
import json
from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.build import build
from data_tools.rejects import StrictError
from data_tools.source import SourceError
from data_tools.sources.adressa import AdressaSource

FIRST = 1483225200


def event(user: str, time: int, **page: object) -> str:
    return (
        json.dumps({"eventId": 1, "city": "trondheim", "userId": user, "time": time, "url": "http://x"} | page) + "\n"
    )


ARTICLE = {"id": "a1", "title": "Ærlig tittel", "category1": "nyheter|trondheim", "keywords": "by,vær"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "one_week"
    folder.mkdir()
    (folder / "20170101").write_text(
        event("u1", FIRST, activeTime=17, **ARTICLE) + event("u1", FIRST + 5) + event("u2", FIRST + 9, **ARTICLE)
    )
    (folder / "20170102.gz").write_bytes(
        gzip.compress(
            event("u1", FIRST + 86400, documentId="d2", title="To").encode()
            + event("u1", FIRST + 86401, documentId="d3").encode()
            + event("u2", FIRST + 86402, **ARTICLE | {"title": "Ny tittel"}).encode()
        )
    )
    return folder


def test_articles_come_from_the_events(folder: Path) -> None:
    first, second = read_source("adressa", "--input", folder).items
    assert (first.file, first.line, first.item_id, first.title) == ("20170101", 1, "a1", "Ærlig tittel")
    assert (first.text, first.fields) == ("Ærlig tittel. by, vær.", {"category": "nyheter|trondheim"})
    assert (second.file, second.line, second.item_id, second.fields) == ("20170102.gz", 1, "d2", {"category": ""})


def test_views_with_their_active_time(folder: Path) -> None:
    reading = read_source("adressa", "--input", folder)
    assert reading.interactions == [
        ("u1", "a1", FIRST, 17.0),
        ("u2", "a1", FIRST + 9, None),
        ("u1", "d2", FIRST + 86400, None),
        ("u2", "a1", FIRST + 86402, None),
    ]
    assert reading.lines == [("20170101", 1), ("20170101", 3), ("20170102.gz", 1), ("20170102.gz", 3)]
    assert reading.users == []


def test_files_by_pattern(folder: Path) -> None:
    assert len(read_source("adressa", "--input", f"{folder}/*01").interactions) == 2


def test_events_that_are_no_item_view_are_counted(folder: Path) -> None:
    with (folder / "20170101").open("a") as file:
        file.write("{}}\n" + event("", FIRST, **ARTICLE) + event("u1", "now", **ARTICLE))
    assert read_source("adressa", "--input", folder).reasons() == [
        ("20170101", 4, "bad_json"),
        ("20170101", 2, "not_an_item"),
        ("20170101", 5, "empty_id"),
        ("20170101", 6, "bad_timestamp"),
        ("20170102.gz", 2, "not_an_item"),
    ]


def test_build(folder: Path, tmp_path: Path) -> None:
    index = build_twice("adressa", ["--input", folder], tmp_path)
    assert index.counts.model_dump() == {
        "users": 2, "items": 2, "interactions": 4, "impressions": 0, "images": 0,
        "rejects": {"not_an_item": 2}, "dropped": {}, "cleaned": {}
    }  # fmt: skip


def test_strict_stops_at_a_front_page(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StrictError, match="20170101, line 2: not_an_item: id is None"):
        build(AdressaSource([str(folder)]), "adressa", tmp_path / "out", strict=True)


def test_missing_and_cut_files(folder: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        AdressaSource([f"{folder}/2018*"])
    path = folder / "20170102.gz"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SourceError, match=r"20170102\.gz is not a complete gzip file"):
        read_source("adressa", "--input", folder)
