import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.__main__ import main
from data_tools.markup import clean_text
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder

SCRIPT = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();\nSoap"


@pytest.mark.parametrize(
    "text",
    [
        "a < b", "AT&T", "R&D", "<3", "</3", "[/part 1]", "[working title]", "<Untitled>", "</Foo> and <a:b>", "< b>",
        "if a <b and c> d", "x <y> z", "R&notes", "AT&T;", "&unknown;", "<i", "<a href='x", "a <- b -> c", "<table-9>",
        "5 < 6 > 4", "{braces}; (getTime)", "We open a window. Then; {x}", "  two  spaces\nand a line ", "&#99999999;",
    ],
)  # fmt: skip
def test_text_that_only_looks_like_markup_survives(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Johnson &amp; Johnson", "Johnson & Johnson"),
        ("5&quot; pipe, caf&eacute;&#39;s &#x2764;", "5\" pipe, café's ❤"),
        ("twice &amp;amp; escaped &amp;#39;", "twice & escaped '"),
        ("<p>Soft.<br/>Warm.</p><p>New</p>", "Soft. Warm. New"),
        ("<b>T</b>rans<SUP>2</SUP>", "Trans2"),
        ('<a href="x?a=1&amp;b=2" title="a > b">Here</a>', "Here"),
        ("&lt;p&gt;AT&amp;T&lt;/p&gt;", "AT&T"),
        ("<script type='x'>var a = '<b>';</script>Pot", "Pot"),
        ("<STYLE>p {color: red}</STYLE >Pan", "Pan"),
        ("cut off <script>var a = 1", "cut off"),
        ("a <!-- b > c --> d", "a d"),
        ("<!DOCTYPE html><html><title>Pot</title></html>", "Pot"),
        ("I <3 <i>you</i> &nbsp; so", "I <3 you so"),
        (SCRIPT, "Soap"),
        ("<br>", ""),
    ],
)
def test_what_a_page_left_is_removed(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "</", "<!--", "-->", "<b", " b", "&", ";", "amp", "#39", '"', "=", "<script>", "p", "\n"]
        )
    )
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_cleaned_and_never_grows(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert len(clean_text(text)) <= len(text)


@pytest.mark.parametrize(
    "piece", ["<", "<a ", "<a b='", '<a b="', "<!--", "</", "<script", "&amp", "<b x='<", "function("]
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    clean_text(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 5


def build(folder: Path, output: Path, *options: str) -> list[dict]:
    command = ["build", "--source", "tables", "--input", str(folder), "--output", str(output), "--workers", "1"]
    assert main([*command, *options]) == 0
    return list(ItemShards(ShardFolder(output)))


def test_a_build_cleans_texts_and_counts_them(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(
        items="item_id\ttitle\ttext\tbrand\na\tA &amp; O\t<p>x</p>\tP&amp;G\nb\t<3\t<br>\tAT&T\nc\t<br>\t<b>C</b>\t\n"
    )
    records = build(folder, tmp_path / "clean")
    assert [(record["title"], record["text"], record["brand"]) for record in records] == [
        ("A & O", "x", "P&G"), ("<3", "<3", "AT&T"), ("C", "C", ""),
    ]  # fmt: skip
    assert (
        "items with markup removed, by text field: brand 1, text 3, title 2 (--raw-text keeps it)"
        in capsys.readouterr().out
    )
    index = json.loads((tmp_path / "clean" / "index.json").read_text())
    assert index["counts"]["cleaned"] == {"brand": 1, "text": 3, "title": 2}
    assert main(["inspect", str(tmp_path / "clean")]) == 0
    assert "brand 1, text 3, title 2" in capsys.readouterr().out
    raw = build(folder, tmp_path / "raw-shards", "--raw-text")
    assert [record["title"] for record in raw] == ["A &amp; O", "<3", "<br>"]
    assert json.loads((tmp_path / "raw-shards" / "index.json").read_text())["build"]["raw_text"] is True
    assert "markup removed" not in capsys.readouterr().out
    again = build(folder, tmp_path / "again")
    assert again == records
    assert (tmp_path / "again" / "index.json").read_bytes() == (tmp_path / "clean" / "index.json").read_bytes()


def test_an_item_of_nothing_but_a_script_is_rejected(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(items="item_id\ttitle\na\tAlpha\nb\t<script>x()</script>\nc\tC\n")
    assert [record["item_id"] for record in build(folder, tmp_path / "out")] == ["a", "c"]
    assert '"no_text"' in (tmp_path / "out" / "rejects.jsonl").read_text()
