"""The curves of a run as `curves.csv` in its folder: step, name, value."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TextIO

from pydantic import Field

from transrec.config import Config
from transrec.files import replace_atomically, writing
from transrec.training.trackers.tracker import Row, TrackedRun, Tracker

FILE = "curves.csv"


class CsvConfig(Config):
    """`curves.csv` in the run folder: a line with step, name and value for each point."""

    name: Literal["csv"] = Field("csv", description="the tracker")

    def open(self, run: TrackedRun) -> "CsvTable":
        return CsvTable(run)

    def check(self) -> None:
        """Does nothing: this tracker needs no other library."""


class CsvTable(Tracker):
    """Rewrites `curves.csv` with the earlier rows, then appends to it."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = run.folder / FILE
        with replace_atomically(self._path) as partial, _opened(partial, "w") as file:
            csv.writer(file).writerow(["step", "name", "value"])
            _write(file, run.earlier)
        with writing(self._path):
            self._file = _opened(self._path, "a")

    def scalars(self, row: Row) -> None:
        with writing(self._path):
            _write(self._file, [row])

    def flush(self) -> None:
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def _opened(path: Path, mode: str) -> TextIO:
    return path.open(mode, encoding="utf-8", newline="")  # type: ignore[return-value]  # mode is a literal


def _write(file: TextIO, rows: Iterable[Row]) -> None:
    writer = csv.writer(file)
    for row in rows:
        writer.writerows((row.step, name, value) for name, value in row.values.items())
