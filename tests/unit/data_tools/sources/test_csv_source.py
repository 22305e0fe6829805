import gzip
from argparse import ArgumentError
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError
from data_tools.sources.csv import CsvSource

CLICKS = 'uid,junk,sku,when,stars\n7,x,a1,1000,4\n8,"a, b",b2,2000,\n7,x,b2,3000,5\n'
ITEMS = 'sku,name,colour\na1,"One, two",red\nb2,"Three\nlines",\n'
COLUMNS = "user_id=uid,item_id=sku,timestamp=when,rating=stars,title=name"
INTERACTIONS = [("7", "a1", 1000, 4.0), ("8", "b2", 2000, None), ("7", "b2", 3000, 5.0)]


def write(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    data = content.encode(encoding)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mapped_columns(tmp_path: Path, suffix: str) -> None:
    clicks, items = write(tmp_path, f"clicks.csv{suffix}", CLICKS), write(tmp_path, f"items.csv{suffix}", ITEMS)
    users = write(tmp_path, f"users.csv{suffix}", "uid,age\n7,30\n")
    options = ["--interactions", clicks, "--items", items, "--users", users, "--columns", COLUMNS]
    reading = read_source("csv", *options)
    assert reading.interactions == INTERACTIONS
    assert reading.lines == [(clicks.name, 2), (clicks.name, 3), (clicks.name, 4)]
    assert [(item.item_id, item.title, item.fields) for item in reading.items] == [
        ("a1", "One, two", {"colour": "red"}), ("b2", "Three\nlines", {"colour": ""})
    ]  # fmt: skip
    assert reading.users == [{"user_id": "7", "age": "30"}]
    index = build_twice("csv", options, tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 2, 3)
    assert index.build["columns"] == COLUMNS


def test_of_a_click_log_alone_clicks_are_interactions_and_all_that_was_shown_is_an_item(tmp_path: Path) -> None:
    log = write(tmp_path, "log.csv", "uid,sku,when,click,place\n7,a1,1000,0,top\n7,b2,1000,1,top\n8,c3,2000,1,side\n")
    options = ["--impressions", log, "--columns", "user_id=uid,item_id=sku,timestamp=when"]
    reading = read_source("csv", *options)
    assert reading.interactions == [("7", "b2", 1000, None), ("8", "c3", 2000, None)]
    assert [item.item_id for item in reading.items] == ["a1", "b2", "c3"]
    index = build_twice("csv", options, tmp_path)
    assert (index.counts.users, index.counts.interactions, index.counts.impressions) == (2, 2, 3)


def test_a_log_given_as_interactions_is_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path, "log.csv", "user_id,item_id,timestamp,clicked\n7,a1,1000,0\n")
    read_source("csv", "--interactions", log)
    assert capsys.readouterr().err == ""
    read_source("csv", "--interactions", log, "--columns", "click=clicked")
    assert "log.csv: ignoring labels (click)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("ratings=stars", r"--columns ratings=stars: interactions have no column ratings; did you mean rating\?"),
        ("weight=junk", "interactions have no column weight; their columns are user_id, item_id, timestamp and rating"),
    ],
)
def test_a_name_that_is_none_of_interactions_is_refused(tmp_path: Path, wrong: str, message: str) -> None:
    options = ["--interactions", write(tmp_path, "clicks.csv", CLICKS)]
    with pytest.raises(SourceError, match=message):
        make_source("csv", *options, "--columns", f"user_id=uid,item_id=sku,timestamp=when,{wrong}")


@pytest.mark.parametrize(
    ("items", "columns", "message"),
    [
        (
            "sku,title\n",
            "item_id=skuu",
            r"clicks\.csv: no column item_id; --columns item_id=skuu: .* did you mean sku\?",
        ),
        ("sku,title\n", "item=sku", r"clicks\.csv: no column item_id; --columns item=sku: did you mean item_id=sku\?"),
        ("sku,title\n", "item_id=xyz", r"--columns item_id=xyz: the file has no column xyz; it has uid, sku, when"),
        (
            "sku,descr\n",
            "item_id=sku,text=desc",
            r"needs a column title or text; .* no column desc; did you mean descr\?",
        ),
        ("sku,descr\n", "item_id=sku,titel=descr", r"--columns titel=descr: did you mean title=descr\?"),
        ("sku,descr\n", "item_id=sku", r"needs a column title or text; map one with --columns, it has sku, descr"),
    ],
)
def test_a_misspelt_mapping_is_named(tmp_path: Path, items: str, columns: str, message: str) -> None:
    clicks = write(tmp_path, "clicks.csv", "uid,sku,when\n")
    options = ["--interactions", clicks, "--items", write(tmp_path, "items.csv", items)]
    with pytest.raises(SourceError, match=message):
        make_source("csv", *options, "--columns", f"user_id=uid,timestamp=when,{columns}")


def test_other_columns_of_items_users_and_impressions_may_be_renamed(tmp_path: Path) -> None:
    log = write(tmp_path, "log.csv", "user_id,item_id,timestamp,click,place\n7,a1,1000,1,top\n")
    users = write(tmp_path, "users.csv", "user_id,years\n7,30\n")
    items = write(tmp_path, "items.csv", "item_id,title,color\na1,One,red\n")
    columns = "colour=color,age=years,position=place"
    options = ["--impressions", log, "--items", items, "--users", users, "--columns", columns]
    reading = read_source("csv", *options)
    assert (reading.items[0].fields, reading.users) == ({"colour": "red"}, [{"user_id": "7", "age": "30"}])


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_without_interactions_and_impressions_there_is_nothing_to_read(tmp_path: Path, source: str) -> None:
    items = write(tmp_path, "items.csv", ITEMS)
    with pytest.raises(SourceError, match=r"--interactions or, .* with --impressions"):
        make_source(source, "--items", items)


@pytest.mark.parametrize(("separator", "option"), [(";", ";"), ("|", "|"), ("\t", "tab"), ("::", "::")])
def test_separators(tmp_path: Path, separator: str, option: str) -> None:
    text = CLICKS.replace('"a, b"', "x").replace(",", separator)
    columns = COLUMNS.removesuffix(",title=name")
    options = ["--interactions", write(tmp_path, "clicks.dat", text), "--columns", columns, "--separator", option]
    assert read_source("csv", *options).interactions == INTERACTIONS


def test_tabs_are_known_by_the_name_of_the_file(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.tsv.gz", CLICKS.replace('"a, b"', "x").replace(",", "\t"))
    options = ["--interactions", clicks, "--columns", COLUMNS.removesuffix(",title=name")]
    assert read_source("csv", *options).interactions == INTERACTIONS


def test_quotes_between_long_separators_are_characters(tmp_path: Path) -> None:
    clicks = write(tmp_path, "ratings.dat", '1::"a"::5\n1::b\x1f"::6\n')
    columns = "user_id=1,item_id=2,timestamp=3"
    options = ["--interactions", clicks, "--separator", "::", "--no-header", "--columns", columns]
    assert read_source("csv", *options).interactions == [("1", '"a"', 5, None), ("1", 'b "', 6, None)]


def test_without_items_they_are_those_of_the_interactions(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,b,1\nu,a,2\nv,b,3\nv,,3\n")
    reading = read_source("csv", "--interactions", clicks)
    assert [(item.item_id, item.title, item.line) for item in reading.items] == [("b", "b", 2), ("a", "a", 3)]
    assert reading.reasons() == [("clicks.csv", 5, "empty_id")]
    assert build_twice("csv", ["--interactions", clicks], tmp_path).counts.items == 2


def test_columns_of_interactions_that_are_not_read_are_in_the_options(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,sku,timestamp,stars,brand\nu,b,1,5,x\n")
    options = ["--interactions", clicks, "--columns", "item_id=sku"]
    assert make_source("csv", *options).options()["not_read"] == ["brand", "stars"]
    assert make_source("csv", *options[:-1], "item_id=sku,rating=stars").options()["not_read"] == ["brand"]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,1\n", "utf-8-sig")
    for options in ([], ["--encoding", "utf-8"], ["--encoding", "utf-8-sig"]):
        assert read_source("csv", "--interactions", clicks, *options).interactions == [("u", "a", 1, None)]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gb18030", "shift_jis"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    title = "Ünïcode" if encoding in ("latin-1", "cp1252") else "日本"
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,1\n")
    items = write(tmp_path, "items.csv", f"item_id,title\na,{title}\n", encoding)
    options = ["--interactions", clicks, "--items", items]
    with pytest.raises(SourceError, match=r"items\.csv, line 2: not UTF-8; state .* --encoding latin-1"):
        make_source("csv", *options)
    assert read_source("csv", *options, "--encoding", encoding).items[0].title == title


def test_a_line_that_is_not_in_the_encoding_is_rejected(tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.csv"
    clicks.write_bytes("user_id,item_id,timestamp\nu,é,1\n".encode() + b"u,\xff,2\nu,c,3\n")
    reading = read_source("csv", "--interactions", clicks, "--encoding", "utf-8")
    assert (reading.interactions, reading.reasons()) == (
        [("u", "é", 1, None), ("u", "c", 3, None)], [("clicks.csv", 3, "invalid_utf8")]
    )  # fmt: skip
    clicks.write_bytes("user_id,item_id,timestamp\nu,日,1\n".encode("gb18030") + b"u,\xff\xff,2\n")
    reading = read_source("csv", "--interactions", clicks, "--encoding", "gb18030")
    assert (len(reading.interactions), reading.reasons()) == (1, [("clicks.csv", 3, "invalid_utf8")])


def test_times_as_texts_and_in_units(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,2017-07-14 02:40:00\nu,b,late\n")
    options = ["--interactions", clicks, "--time-format", "%Y-%m-%d %H:%M:%S"]
    reading = read_source("csv", *options)
    assert reading.interactions == [("u", "a", 1_500_000_000, None)]
    assert reading.reasons() == [("clicks.csv", 3, "bad_timestamp")]
    write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,1500000000999\n")
    assert read_source("csv", "--interactions", clicks).reasons() == [("clicks.csv", 2, "bad_timestamp")]
    options = ["--interactions", clicks, "--timestamp-unit", "ms"]
    assert read_source("csv", *options).interactions == [("u", "a", 1_500_000_000, None)]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("%Y-%m-%d %H:%M:%S.%f", r"fractions of a second \(%f\) are not supported"),
        ("%Y-%m-%d %Z", r"names of time zones \(%Z\) are not supported, only offsets \(%z\)"),
        ("%m-%d", "has no year: give a full date"),
        ("%H:%M", "has no year"),
        ("%%Y", "has no year"),
        ("", "--time-format '' has no year"),
    ],
)
def test_a_format_of_times_that_would_be_misread_is_refused(tmp_path: Path, form: str, message: str) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(SourceError, match=message):
        make_source("csv", "--interactions", clicks, "--time-format", form)


def test_a_format_of_times_and_a_unit_exclude_each_other(tmp_path: Path) -> None:
    clicks = write(tmp_path, "clicks.csv", "user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(ArgumentError, match="not allowed with argument --timestamp-unit"):
        make_source("csv", "--interactions", clicks, "--timestamp-unit", "ms", "--time-format", "%Y-%m-%d")


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("", {}, r"clicks\.csv, line 1: expected a header, found nothing"),
        ("a,a\n", {}, "column names must be distinct"),
        ("a,b\n", {}, "no column item_id, timestamp, user_id; map one with --columns, it has a, b"),
        ("a,b\n", {"columns": [("title", "c")]}, "no column item_id"),
        (
            "user_id,item_id,timestamp\n",
            {"columns": [("title", "c")]},
            "no file has a column c; their columns are item_id",
        ),
        ("user_id,item_id,timestamp,naem\n", {"columns": [("title", "name")]}, "column name; did you mean naem"),
        ("a\n", {"encoding": "klingon"}, "the encoding 'klingon' is not known"),
        ("a\n", {"encoding": "utf-16"}, "utf-16 cannot be read: convert"),
        ("a\n", {"separator": '"'}, "the separator is"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, content: str, changes: dict, message: str) -> None:
    clicks = write(tmp_path, "clicks.csv", content)
    with pytest.raises(SourceError, match=message):
        CsvSource([str(clicks)], **changes)
