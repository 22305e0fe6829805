from pathlib import Path

import pytest

from transrec.sweeps import records
from transrec.sweeps.records import Record, RecordsError

LINES = [
    Record("00000-ab", {"size": 0.5, "method": "full"}, "runs/ab", None, "done", None, ["nöte"]),
    Record("00001-cd", {"size": 1.0, "method": "full"}, "runs/cd", "runs/ef", "failed", "it broke"),
    Record("00002-gh", {"size": 1.0, "method": "a\u2028b\x85c\u2029[/d]"}, "runs/gh", None, "pending"),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records.write(tmp_path, LINES)
    assert records.read(tmp_path) == LINES


def test_a_folder_without_trials_and_a_broken_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="not the folder of a sweep"):
        records.read(tmp_path)
    records.write(tmp_path, LINES)
    path = tmp_path / records.TRIALS_FILE
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(RecordsError, match="line 3"):
        records.read(tmp_path)
