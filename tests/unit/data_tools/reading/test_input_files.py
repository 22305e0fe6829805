from pathlib import Path

import pytest

from data_tools.reading.input_files import find_files, label_files
from data_tools.source import SourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.x", "b/1.x", "a/1.x", "a/_SUCCESS", "a/.crc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_patterns_and_folders_in_the_order_given_each_by_name(folder: Path) -> None:
    found = find_files([f"{folder}/b/*.x", f"{folder}/a"])
    assert [str(path.relative_to(folder)) for path in found] == ["b/1.x", "b/2.x", "a/1.x"]


def test_labels_tell_files_apart(folder: Path) -> None:
    assert list(label_files(find_files([f"{folder}/b/*"])).values()) == ["1.x", "2.x"]
    assert list(label_files(find_files([f"{folder}/?/1.x"])).values()) == ["a/1.x", "b/1.x"]


def test_nothing_found_and_found_twice(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"c/\*: no such file"):
        find_files([f"{folder}/c/*"])
    with pytest.raises(SourceError, match="given twice"):
        find_files([f"{folder}/a/1.x", f"{folder}/a/../a/1.x"])
