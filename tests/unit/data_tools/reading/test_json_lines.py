import gzip
from pathlib import Path

import pytest

from data_tools.reading import text_blocks
from data_tools.reading.json_lines import read_json_lines, read_objects
from data_tools.rejects import Reason, Reject

NAMES = ["id", "n", "list"]


def read(path: Path) -> tuple[list[tuple[int, dict]], list[Reject]]:
    rejects: list[Reject] = []
    rows = []
    for batch in read_json_lines(path, NAMES, rejects.append):
        rows += zip(batch.lines.to_pylist(), batch.rows.to_pylist(), strict=True)
    return rows, rejects


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("block_bytes", [1, 30, 10**6])
def test_values_are_text(tmp_path: Path, pack, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
    path = tmp_path / ("t.jsonl" if pack is bytes else "t.jsonl.gz")
    path.write_bytes(pack('{"id": "é", "n": 1.50, "other": {}}\n\n{"list": [1, "ü"], "n": true, "id": null}'.encode()))
    rows, rejects = read(path)
    assert rows == [(1, {"id": "é", "n": "1.5", "list": None}), (3, {"id": None, "n": "true", "list": '[1, "ü"]'})]
    assert rejects == []


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"id": 1', Reason.BAD_JSON, "Expecting ',' delimiter"),
        (b"[1]", Reason.BAD_JSON, "not an object"),
        (b'{"id": "\\ud800"}', Reason.BAD_JSON, "half a surrogate pair"),
        (b"[" * 100_000, Reason.BAD_JSON, "recursion"),
        (b'{"id": "\xff"}', Reason.INVALID_UTF8, "invalid start byte 0xff at byte 9 of the line"),
    ],
)
def test_what_is_no_object_is_rejected_with_its_line(tmp_path: Path, line: bytes, reason: Reason, detail: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"id": "a"}\n' + line + b'\n{"id": "\\ud83d\\ude00"}\n')
    rows, [reject] = read(tmp_path / "t.jsonl")
    assert [(number, row["id"]) for number, row in rows] == [(1, "a"), (3, "😀")]
    assert (reject.file, reject.line, reject.reason) == ("t.jsonl", 2, reason)
    assert detail in reject.detail


def test_objects_keep_their_types(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": [1, 2]}\n')
    assert list(read_objects(tmp_path / "t.jsonl", pytest.fail)) == [(1, {"a": [1, 2]})]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7.0", "7"),
        ("NaN", None),
        ("-Infinity", None),
        ("12345678901234567.0", "12345678901234567.0"),
        ("1e400", "1e400"),
    ],
)
def test_a_number_is_one_text_however_it_is_written(tmp_path: Path, value: str, text: str | None) -> None:
    """Otherwise 7 and 7.0 are two users, users without an id are one, and long ids are rounded to the same."""
    (tmp_path / "t.jsonl").write_text('{"id": ' + value + "}\n")
    rows, rejects = read(tmp_path / "t.jsonl")
    assert (rows[0][1]["id"], rejects) == (text, [])


def test_literals_of_python_are_read_where_they_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("{'id': u'\\u00e9', \"n\": (1, None), 'list': {True: 'x'}}\n{'id': 7.0}\n{\"id\": null}\n")
    rejects: list[Reject] = []
    assert list(read_objects(path, rejects.append)) == [(3, {"id": None})]
    assert [reject.line for reject in rejects] == [1, 2]
    assert list(read_objects(path, pytest.fail, literals=True)) == [
        (1, {"id": "é", "n": [1, None], "list": {"true": "x"}}), (2, {"id": 7}), (3, {"id": None})
    ]  # fmt: skip


def test_unknown_escapes_in_literals_are_no_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "t.json").write_text("{'id': 'a\\d'}\n")
    assert list(read_objects(tmp_path / "t.json", pytest.fail, literals=True)) == [(1, {"id": "a\\d"})]
    assert not recwarn.list


@pytest.mark.parametrize(
    "line",
    [
        "{'id': __import__('os').getcwd()}",
        "{'id': open('x')}",
        "{'id': 2**9}",
        "{'id': 1+1j}",
        "{'id': b'x'}",
        "{'id': {1, 2}}",
        "{'id': ...}",
        "{('a', 'b'): 1}",
        "{'id': '\\ud800'}",
        "{'id': " + "[" * 10**5 + "]" * 10**5 + "}",
        "{'id': " + "-" * 10**5 + "1}",
        "{'id': " + "9" * 5000 + "}",
        "{'id': '" + "x" * 2**20 + "'}",
        "{'id': 'open}",
    ],
    ids=lambda line: line[:30],
)
def test_what_is_no_plain_literal_is_rejected(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.json").write_text(f"{line}\n{{'id': 'b'}}\n")
    rejects: list[Reject] = []
    assert list(read_objects(tmp_path / "t.json", rejects.append, literals=True)) == [(2, {"id": "b"})]
    assert [(reject.line, reject.reason) for reject in rejects] == [(1, Reason.BAD_JSON)]
    assert len(rejects[0].detail) < 400
