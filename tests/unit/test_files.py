from pathlib import Path

import pytest

from transrec.files import StorageError, rename_folder, replace_atomically, write_text, writing


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


@pytest.mark.parametrize(("number", "reason"), [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_write_that_fails_is_one_sentence_that_names_the_file(tmp_path: Path, number: int, reason: str) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(StorageError) as raised, writing(path):
        raise OSError(number, reason)
    assert f"cannot write {path}: {reason}. Make room" in str(raised.value)
    assert "same command" in str(raised.value)


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
