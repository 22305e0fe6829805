"""Output folders of exports."""

import os
from pathlib import Path

import pytest

from transrec.config import ConfigError
from transrec.locks import BusyError
from transrec.runs.outputs import output_folder


def fill(output: Path, *names: str, replaced: list[str] | None = None) -> None:
    with output_folder(output, "manifest.json", replaced) as partial:
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(f"new {name}")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_and_its_parents_are_made(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "b", "manifest.json", "text/model")
    assert content(tmp_path / "a") == {"b/manifest.json": "new manifest.json", "b/text/model": "new text/model"}


def test_an_empty_folder_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point cannot be replaced, and a shell whose folder is replaced is lost."""
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    before = (tmp_path / "out").stat().st_ino
    monkeypatch.chdir(tmp_path / "out")
    fill(Path(), "manifest.json", "items")
    assert (tmp_path / "out").stat().st_ino == before
    assert content(tmp_path) == {"out/manifest.json": "new manifest.json", "out/items": "new items"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    fill(tmp_path / "link", "items")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "elsewhere") == {"items": "new items"}


def test_a_failure_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(ZeroDivisionError), output_folder(tmp_path / name) as partial:
            (partial / "items").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_only_files_of_the_earlier_export_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "manifest.json", "items", "index")
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "items").write_text("old")
    fill(tmp_path, "manifest.json", "items", replaced=["items", "index"])
    assert content(tmp_path) == {"manifest.json": "new manifest.json", "items": "new items", "notes": "mine"}


def test_what_a_killed_export_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "half").touch()
    (tmp_path / ".lock").touch()
    fill(tmp_path, "items")
    assert content(tmp_path) == {"items": "new items"}


@pytest.mark.parametrize("exists", [True, False])
def test_a_second_export_is_refused_and_the_first_named(tmp_path: Path, exists: bool) -> None:
    output = tmp_path / "out"
    if exists:
        output.mkdir()
    with output_folder(output) as partial:
        with pytest.raises(BusyError, match=rf"{output} is being written by process {os.getpid()} on .*: wait until"):
            fill(output, "items")
        (partial / "items").write_text("of the first")
    assert content(output) == {"items": "of the first"}


@pytest.mark.parametrize(("name", "message"), [("file", "is a file"), (".", "is not empty")])
def test_what_is_there_is_left_alone(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=f"{message}: choose another --output"):
        fill(tmp_path / name, "items")
    assert content(tmp_path) == {"file": "mine"}
