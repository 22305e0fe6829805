import gzip
from pathlib import Path

import pytest

from data_tools.reading import text_blocks
from data_tools.reading.text_blocks import count_lines, first_line, line_blocks
from data_tools.source import SourceError

TEXT = b"".join(b"line %d\n" % number for number in range(1000))


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 10**6])
def test_blocks_are_whole_lines_wherever_they_are_cut(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
    for data in (TEXT, TEXT[:-1], b"\xef\xbb\xbf" + TEXT):
        (tmp_path / "t").write_bytes(data)
        blocks = list(line_blocks(tmp_path / "t"))
        assert b"".join(blocks) == TEXT
        assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(line_blocks(tmp_path / "t", skip_header=True)) == TEXT.partition(b"\n")[2]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "t.gz").write_bytes(gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:]))
    assert b"".join(line_blocks(tmp_path / "t.gz")) == TEXT
    assert first_line(tmp_path / "t.gz") == "line 0"
    assert count_lines([tmp_path / "t.gz"]) is None


@pytest.mark.parametrize("damage", ["cut off", "not gzip", "flipped"])
def test_damaged_gzip_is_one_error_naming_the_file(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(TEXT, mtime=0)
    data = {"cut off": packed[:-20], "not gzip": TEXT, "flipped": packed[:100] + b"\xff\xff" + packed[102:]}[damage]
    (tmp_path / "t.gz").write_bytes(data)
    with pytest.raises(SourceError, match=r"t\.gz is not a complete gzip file \(.+\): download it again"):
        list(line_blocks(tmp_path / "t.gz"))


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "t").touch()
    assert list(line_blocks(tmp_path / "t")) == []
    with pytest.raises(SourceError, match="line 1"):
        first_line(tmp_path / "t")
