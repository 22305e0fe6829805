import csv
import io
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.reading import text_blocks
from data_tools.reading.csv_files import csv_columns, first_record, read_csv, read_headless_csv
from data_tools.rejects import Reason, Reject
from data_tools.source import SourceError


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


HUGE = b"h" * 200_000


@pytest.mark.parametrize("neighbour", [b"", b'0,"q"\n', b'0,a"b\n', b'0,"two\nlines"\n'])
@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b"1," + HUGE, ["1", HUGE.decode()]),
        (b'1,"' + HUGE + b'"', ["1", HUGE.decode()]),
        (b"1,a\rb", ["1", "a\rb"]),
        (b"1,a\r\r", ["1", "a\r"]),
        (b'1,a"b"', ["1", 'a"b"']),
        (b"1, ", ["1", " "]),
        ("1,a\u2028b\x85".encode(), ["1", "a\u2028b\x85"]),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_row_is_read_whatever_its_neighbours(
    tmp_path: Path, neighbour: bytes, line: bytes, fields: list[str]
) -> None:
    rows, rejects = read(write(tmp_path, b"x,y\n" + neighbour + line + b"\n2,b\n"))
    assert [row for _, row in rows][-2:] == [fields, ["2", "b"]]
    assert rejects == []


LINES = st.lists(st.text(st.sampled_from("ab,\r \0\x85é"), max_size=9), max_size=8)
BEFORE = st.sampled_from(['0,"q"\n', '0,"a\nb"\n'])


@given(lines=LINES, before=BEFORE)
def test_lines_without_quotes_have_one_fate(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], before: str
) -> None:
    """They are kept or rejected alike by both ways of reading: alone, and behind a record with quotes."""
    check_fates(tmp_path_factory.mktemp("fates"), lines, before)


@given(data=st.binary(max_size=60), block_bytes=st.integers(1, 80))
def test_any_bytes_are_rows_or_rejects_wherever_the_blocks_are_cut(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block_bytes: int
) -> None:
    path = write(tmp_path_factory.mktemp("bytes"), b'x,y\n0,"' + data + b'"\n1,2\n')
    expected = read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
        assert read(path) == expected


def check_fates(folder: Path, lines: list[str], before: str) -> None:
    def fates(before: str) -> list[object]:
        path = write(folder, "\n".join(["x,y", *before.splitlines(), *lines, ""]).encode())
        rows, rejects = read(path)
        first = 2 + before.count("\n")
        return sorted((line - first, repr(fate)) for line, fate in [*rows, *rejects] if line >= first)

    assert fates(before) == fates("")


@pytest.mark.parametrize("line", ['a","b', '1,"open', '1,"x"y', '","', '1,"",""x', '1,"""'])
def test_bad_quotes_take_time_in_proportion_to_the_lines(tmp_path: Path, line: str) -> None:
    def seconds(lines: int) -> float:
        path = write(tmp_path, b"x,y\n" + f"{line}\n".encode() * lines)
        start = time.process_time()
        read(path)
        return time.process_time() - start

    few, many = (
        min(seconds(lines) for _ in range(3)) for lines in (4_000, 16_000)
    )  # the least: others are at work too
    assert many < 10 * max(few, 0.05)
    assert many < 2


def test_a_record_with_many_fields_too_many_costs_its_first_line(tmp_path: Path) -> None:
    rows, rejects = read(write(tmp_path, b"x,y\n1," + b'"a",' * 20 + b'"b\n2"\n2,"c"\n'))
    assert (rows, rejects) == ([(4, ["2", "c"])], [(2, Reason.BAD_QUOTING), (3, Reason.WRONG_FIELD_COUNT)])
    rows, rejects = read(write(tmp_path, b"x,y\n1," + b'"a",' * 20 + b'"b"\n2,"c"\n'))
    assert (rows, rejects) == ([(3, ["2", "c"])], [(2, Reason.WRONG_FIELD_COUNT)])
    rows, rejects = read(write(tmp_path, b'x,y\n1,2,3,"a\n4,5"\n2,"c"\n'))
    assert (rows, rejects) == ([(4, ["2", "c"])], [(2, Reason.WRONG_FIELD_COUNT)])


def test_a_quote_that_never_closes_costs_one_record(tmp_path: Path) -> None:
    """A quoted field has a greatest length, so reading continues after the open quote, however much follows."""
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
