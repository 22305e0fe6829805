from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.reading import text_blocks
from data_tools.reading.row_files import column_names, count_rows, find_row_file, read_rows
from data_tools.rejects import Reason, Reject
from data_tools.source import SourceError


def read(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[Reject]]:
    """(line, row) of every good row, and the rejects."""
    rejects: list[Reject] = []
    rows = []
    for batch in read_rows(path, rejects.append):
        batch.rows.validate(full=True)
        rows += zip(batch.lines.to_pylist(), batch.rows.to_pylist(), strict=True)
    return rows, rejects


def write(folder: Path, data: bytes) -> Path:
    path = folder / "t.tsv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [b"x\ty\n1\ta\n2\tb\n", b"x\ty\n1\ta\n2\tb", b"x\ty\r\n1\ta\r\n2\tb\r\n", b"\xef\xbb\xbfx\ty\r\n1\ta\r\n2\tb\r"],
    ids=["plain", "no newline at the end", "CRLF", "byte order mark, cut CRLF"],
)
def test_reads_every_usual_form(tmp_path: Path, data: bytes) -> None:
    rows, rejects = read(write(tmp_path, data))
    assert rows == [(2, {"x": "1", "y": "a"}), (3, {"x": "2", "y": "b"})]
    assert rejects == []


def test_fields_are_taken_as_they_are(tmp_path: Path) -> None:
    """There is no quoting, there are no null words, and a lone CR does not end a line."""
    rows, _ = read(write(tmp_path, 'x\ty\n"a"\tNA\n\t é\\t\rz\n'.encode()))
    assert [row for _, row in rows] == [{"x": '"a"', "y": "NA"}, {"x": "", "y": " é\\t\rz"}]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"1", Reason.WRONG_FIELD_COUNT, "1 fields instead of 2"),
        (b"1\t2\t3", Reason.WRONG_FIELD_COUNT, "3 fields instead of 2"),
        (b"1\t\0", Reason.NUL_BYTE, "NUL at byte 3 of the line"),
        (b"1\t\xff", Reason.INVALID_UTF8, "invalid start byte 0xff at byte 3 of the line"),
    ],
)
def test_malformed_line_is_rejected_with_its_number(tmp_path: Path, line: bytes, reason: Reason, detail: str) -> None:
    rows, rejects = read(write(tmp_path, b"x\ty\n1\ta\n\n" + line + b"\n2\tb\n"))
    assert rows == [(2, {"x": "1", "y": "a"}), (5, {"x": "2", "y": "b"})]
    assert rejects == [Reject("t.tsv", 4, reason, detail)]


@given(
    lines=st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=20),
    block_bytes=st.integers(1, 40),
)
def test_every_line_is_a_row_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block_bytes: int
) -> None:
    """Every line is read or rejected, for any bytes and wherever the blocks are cut."""
    path = write(tmp_path_factory.mktemp("lines"), b"x\ty\n" + b"".join(line + b"\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
        rows, rejects = read(path)
    found = {number: "\t".join(row.values()).encode() for number, row in rows}
    rejected = {reject.line for reject in rejects}
    assert not rejected & set(found)
    for number, line in enumerate(lines, start=2):
        content = line.removesuffix(b"\r")
        if number in found:
            assert found[number] == content
        else:
            assert number in rejected or content == b""


@pytest.mark.parametrize("header", [b"", b"\n", b"x\tx\n", b"x\t\n", b"\xff\ty\n", b"x\0\ty\n"])
def test_broken_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(SourceError, match=r"t\.tsv"):
        column_names(write(tmp_path, header))


def test_parquet_keeps_types_and_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1, 2], "y": ["a", None]}), path)
    rows, _ = read(path)
    assert rows == [(1, {"x": 1, "y": "a"}), (2, {"x": 2, "y": None})]
    assert count_rows(path) == 2


def test_unreadable_parquet_is_an_error_naming_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=r"t\.parquet"):
        column_names(path)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(SourceError, match=r"t\.parquet .*: it is a git-lfs pointer; run `git lfs pull` in its folder"):
        column_names(path)


def test_two_forms_of_one_table_are_ambiguous(tmp_path: Path) -> None:
    assert find_row_file(tmp_path, "t") is None
    (tmp_path / "t.tsv").touch()
    assert find_row_file(tmp_path, "t") == tmp_path / "t.tsv"
    (tmp_path / "t.parquet").touch()
    with pytest.raises(SourceError, match="both"):
        find_row_file(tmp_path, "t")
