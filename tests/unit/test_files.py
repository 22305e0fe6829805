import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from transrec.files import (
    LinesError,
    StorageError,
    json_lines,
    read_json,
    rename_folder,
    replace_atomically,
    write_text,
    writing,
)


def test_written_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old, and longer")
    write_text(path, "neu: ä")
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail() -> None:
        with replace_atomically(path) as partial:
            partial.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replace_atomically(path) as partial:
        partial.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut leaves a file of the right name and no content."""
    done: list[str] = []
    monkeypatch.setattr("transrec.files._flush", lambda path: done.append(f"flush {path.name}"))
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append(f"name {to.name}"), original(self, to))[1])
    write_text(tmp_path / "a", "x")
    assert done == ["flush .a.partial", "name a", f"flush {tmp_path.name}"]


def test_a_finished_folder_gets_its_name_after_its_content_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, final = tmp_path / "x.partial", tmp_path / "x"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep" / "file").write_text("content")
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr("transrec.files._flush", lambda path: flushed.append((path.name, final.exists())))
    rename_folder(partial, final)
    assert (final / "deep" / "file").read_text() == "content"
    assert not partial.exists()
    assert flushed == [("deep", False), ("file", False), ("x.partial", False), (tmp_path.name, True)]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room on that disk"),
        (errno.EROFS, "Make that disk writable"),
        (errno.EACCES, "Make it writable"),
        (errno.EEXIST, "Choose a place that is not a file"),
        (errno.ENOTDIR, "Choose a place that is not inside a file"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
        (errno.EMFILE, "Raise the limit on open files"),
        (errno.EBUSY, "Remove the cause"),
    ],
)
def test_a_write_that_fails_is_one_sentence_that_names_the_file_and_the_remedy(
    tmp_path: Path, number: int, remedy: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(StorageError) as raised, writing(path):
        raise OSError(number, os.strerror(number))
    assert str(raised.value).startswith(f"cannot write {path}: {os.strerror(number)}. {remedy}")
    assert "same command" in str(raised.value)


def test_a_place_inside_a_file_is_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Not a directory\. Choose a place that is not inside a file"):
        write_text(tmp_path / "file" / "x", "text")


def lines(content: bytes) -> list[tuple[int, Any]]:
    return list(json_lines(io.BytesIO(content), "x.jsonl"))


def test_json_lines_end_at_a_line_feed_alone() -> None:
    for cut in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e":
        text = json.dumps({"a": f"x{cut}y"}, ensure_ascii=False)
        assert lines(f"{text}\n2".encode()) == [(1, {"a": f"x{cut}y"}), (2, 2)]


def test_a_byte_order_mark_carriage_returns_and_blank_lines_are_no_content() -> None:
    assert lines(b"\xef\xbb\xbf1\r\n\r\n2\r\n  \n\n") == [(1, 1), (3, 2)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON"),
        (b'"\xe9"', "byte 2 is not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"\xef\xbb\xbf1", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: bytes, fault: str) -> None:
    with pytest.raises(LinesError, match=rf"x\.jsonl, line 3: {fault}"):
        lines(b"1\n2\n" + line + b"\n")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fill() -> None:
        with replace_atomically(path) as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=str(path)):
        fill()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"\xed\xa0\x80"])
def test_json_that_cannot_be_read_is_one_kind_of_error(tmp_path: Path, content: bytes) -> None:
    """The parser reports a file that is nested too deeply by an error that few expect."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expecting|decode|recursion"):
        read_json(path)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}')
    assert read_json(path) == {"a": "\u2028"}
