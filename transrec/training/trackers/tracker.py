"""The interface of trackers, and the points of the curves that they show.

A run may be killed at any time, and resumes from its last checkpoint. `metrics.jsonl` then loses the records after
the checkpoint; every tracker is made to show the same points, each once.

Designs considered for trackers of other programs, which can neither take back a point nor tell when it is safe on
disk. Holding points back until the next checkpoint: nobody could watch a run live. Appending all points: a killed run
would show some steps twice and lack those that the program held in memory (an offline run of W&B lost all 5). Chosen:
metrics.jsonl has every point; when a tracker is opened, it gets all points so far and adds those that it lacks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transrec.errors import TransRecError
from transrec.files import write_text


class TrackerError(TransRecError):
    """A tracker that cannot be used; the message names it, the cause and the remedy."""


@dataclass(frozen=True)
class Row:
    """Values that were recorded together after a step, by the name of their curve, such as `train/loss`."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker shows.

    Args:
        earlier: the rows of the steps before the one that training (re)starts with, in order.
        hyperparameters: settings of the run, by dotted key.
    """

    folder: Path
    start_step: int
    earlier: Sequence[Row]
    hyperparameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.absolute().name


@dataclass(frozen=True)
class ShownItems:
    """Item vectors (I, D), and columns of text that describe the items: id, title, category."""

    vectors: Tensor
    columns: Mapping[str, Sequence[str]]


class Tracker(ABC):
    """Shows one run. It exists only on rank 0, and after `open` it holds all earlier rows, each once."""

    @abstractmethod
    def scalars(self, row: Row) -> None:
        """Add points of curves."""

    def results(self, row: Row) -> None:
        """Add the test metrics, the last row of a run."""
        self.scalars(row)

    def items(self, items: ShownItems) -> None:  # noqa: B027  # most trackers have no view of vectors
        """Show the vectors of items, where the tracker has a view for them."""

    @abstractmethod
    def flush(self) -> None:
        """Write everything to disk, as far as the tracker allows."""

    @abstractmethod
    def close(self) -> None:
        """End the tracking; the run may be resumed later."""


@contextmanager
def reporting(tracker: str, remedy: str) -> Iterator[None]:
    """Turn the errors of a tracker's library into a `TrackerError` of one line."""
    try:
        yield
    except TransRecError:
        raise
    except Exception as error:  # of any kind: network, login, database
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrackerError(f"{tracker} failed ({reason}): {remedy}") from None


def plain(value: Any) -> bool | int | float | str:
    """A hyperparameter in a type that trackers accept."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def kept_id(path: Path, new: str) -> str:
    """A tracker's id of a run, from `path` in the run folder; if there is none yet, `new`, which is written there."""
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{new}\n")
    return new


def finite(value: float | None) -> float:
    """A value of `metrics.jsonl`, which has null for numbers that are not finite."""
    return math.nan if value is None else value
