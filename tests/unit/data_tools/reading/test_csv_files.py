import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.reading import text_blocks
from data_tools.reading.csv_files import csv_columns, first_record, read_csv, read_headless_csv
from data_tools.rejects import Reason, Reject
from data_tools.sources.source import SourceError


def read(path: Path) -> tuple[list[tuple[int, list[str]]], list[tuple[int, Reason]]]:
    """(line, fields) of every good record, and (line, reason) of the rejects."""
    rejects: list[Reject] = []
    rows = []
    for batch in read_csv(path, rejects.append):
        batch.rows.validate(full=True)
        assert batch.file == "t.csv"
        fields = [list(row.values()) for row in batch.rows.to_pylist()]
        rows += zip(batch.lines.to_pylist(), fields, strict=True)
    return rows, [(reject.line, reject.reason) for reject in rejects]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_quoted_fields_may_hold_commas_quotes_and_lines(tmp_path: Path, end: bytes) -> None:
    lines = [b"x,y", b"1,plain", b'2,"a, ""b"""', b'3,"two', b'lines"', b"", b"4,", b'"5",0108775015']
    rows, rejects = read(write(tmp_path, end.join(lines) + end))
    two_lines = f"two{end.decode()}lines"
    assert rows == [
        (2, ["1", "plain"]), (3, ["2", 'a, "b"']), (4, ["3", two_lines]), (7, ["4", ""]), (8, ["5", "0108775015"])
    ]  # fmt: skip
    assert rejects == []


@pytest.mark.parametrize("quoted", [b"", b'0,"q"\n'], ids=["no quote in the block", "a quote in the block"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", Reason.WRONG_FIELD_COUNT),
        (b"1,2,3", Reason.WRONG_FIELD_COUNT),
        (b"1,\0", Reason.NUL_BYTE),
        (b"1,\xff", Reason.INVALID_UTF8),
        (b'1,"a"b', Reason.BAD_QUOTING),
        (b'1,"never closed', Reason.BAD_QUOTING),
    ],
)
def test_malformed_record_is_rejected_with_its_number(
    tmp_path: Path, quoted: bytes, line: bytes, reason: Reason
) -> None:
    rows, rejects = read(write(tmp_path, b"x,y\n" + quoted + line + b"\n2,b\n3,c\n"))
    bad = 3 if quoted else 2
    assert [row for row in rows if row[0] > bad] == [(bad + 1, ["2", "b"]), (bad + 2, ["3", "c"])]
    assert rejects == [(bad, reason)]


def test_a_quote_that_never_closes_costs_one_record(tmp_path: Path) -> None:
    """No field can be longer than csv's limit, so reading continues after the open quote, however much follows."""
    good = b"".join(b"%d,abcdefghij\n" % number for number in range(50_000))
    rows, rejects = read(write(tmp_path, b'x,y\n0,"open\n' + good))
    assert rejects == [(2, Reason.BAD_QUOTING)]
    assert [line for line, _ in rows] == list(range(3, 50_003))


@settings(deadline=None)  # it writes files
@given(
    records=st.lists(
        st.tuples(*[st.text(st.sampled_from('ab,"\n '), max_size=6)] * 2).filter(lambda r: r != ("", "")), max_size=12
    ),
    block_bytes=st.integers(1, 40),
)
def test_what_csv_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], block_bytes: int
) -> None:
    """Records and the lines they start on are the same wherever the blocks are cut."""
    expected, line, text = [], 2, io.StringIO("x,y\n")
    text.seek(0, io.SEEK_END)
    for record in records:
        expected.append((line, list(record)))
        csv.writer(text, lineterminator="\n").writerow(record)
        line += 1 + sum(field.count("\n") for field in record)
    path = write(tmp_path_factory.mktemp("records"), text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
        assert read(path) == (expected, [])


def test_without_a_header_line_one_is_a_record(tmp_path: Path) -> None:
    [batch] = read_headless_csv(write(tmp_path, b'v1,"a, b"\n'), ["item", "title"], pytest.fail)
    assert batch.lines.to_pylist() == [1]
    assert batch.rows.to_pylist() == [{"item": "v1", "title": "a, b"}]
    assert first_record(tmp_path / "t.csv") == ["v1", "a, b"]


@pytest.mark.parametrize("header", [b"", b"\n", b"x,x\n", b"x,\n", b"\xff,y\n", b'"x\n'])
def test_broken_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(SourceError, match=r"t\.csv"):
        csv_columns(write(tmp_path, header))
