"""Progress and records of a run: progress bar, metrics.jsonl, and the trackers that show its curves."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transrec.files import LinesError, json_lines, write_text, writing
from transrec.terminal import messages
from transrec.training.trackers import TrackerConfig
from transrec.training.trackers.tensorboard_log import TensorBoardConfig
from transrec.training.trackers.tracker import Row, ShownItems, TrackedRun, Tracker, TrackerError, finite

METRICS_FILE = "metrics.jsonl"
_CURVES, _RESULTS = "curves", "results"  # kinds of records that hold a row for trackers
_SECONDS_BETWEEN_LINES = 30.0


class Records:
    """Writes the records of a run from `start_step` on; later records of an interrupted run are dropped.

    A tracker that fails is dropped with a warning. metrics.jsonl has all curves, so the tracker is brought up to date
    when the run resumes.

    Args:
        finished: whether the run had already finished, so that its results are written again.

    Raises:
        TrackerError, ExtraError: a tracker cannot be opened.
    """

    def __init__(
        self,
        run_dir: Path,
        start_step: int,
        total_steps: int,
        trackers: Sequence[TrackerConfig] = (TensorBoardConfig(),),
        hyperparameters: Mapping[str, Any] | None = None,
        finished: bool = False,
    ) -> None:
        self._path = run_dir / METRICS_FILE
        again = {_RESULTS} if finished else set()
        kept = [r for r in _records(self._path) if r["step"] <= start_step and r["kind"] not in again]
        write_text(self._path, "".join(f"{json.dumps(record)}\n" for record in kept))
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        self.console = messages()
        run = TrackedRun(run_dir, start_step, _rows(kept), hyperparameters or {})
        self._trackers: list[Tracker] = []
        for tracker in trackers:
            self._trackers.append(tracker.open(run))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} users/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._total = total_steps
        self._task = self._progress.add_task("training", total=total_steps, completed=start_step, loss="–", rate="–")
        self._progress.start()
        self._last_line = 0.0

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl."""
        with writing(self._path):
            self._file.write(json.dumps({"kind": kind, "step": step, **_finite(values)}) + "\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add points of curves, by the name of the curve."""
        self.record(_CURVES, step, {"values": _finite(values)})
        self._each(lambda tracker: tracker.scalars(Row(step, values)))

    def results(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the test metrics of the run, by which trackers compare it with other runs."""
        self.record(_RESULTS, step, {"values": _finite(metrics)})
        self._each(lambda tracker: tracker.results(Row(step, metrics)))

    def items(self, items: ShownItems) -> None:
        """Show the vectors of items in the trackers that have a view for them."""
        self._each(lambda tracker: tracker.items(items))

    def advance(self, step: int, loss: float, users_per_second: float, seconds_a_step: float) -> None:
        """Update the progress bar; without a terminal, print a line from time to time."""
        with writing(self._path):
            self._file.flush()
        self._progress.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{users_per_second:.0f}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = seconds_a_step * (self._total - step)
            self.say(
                f"step {step}/{self._total}  loss {loss:.4f}  {users_per_second:.0f} users/s  "
                f"about {left / 60:.1f} min left, plus validations and test"
            )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    def flush(self) -> None:
        """Write all records to disk before a checkpoint, because a run resumed from it does not write them again."""
        with writing(self._path):
            self._file.flush()
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Stop the progress bar and close the files."""
        self._progress.stop()
        with writing(self._path):
            self._file.close()
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except TrackerError as error:
                self._trackers.remove(tracker)
                self.say(f"warning: {error}. The run goes on without this tracker; {METRICS_FILE} has all curves")


def steps_done(run_dir: Path) -> int:
    """The last step that a run has recorded."""
    return last_batch(run_dir)[0]


def last_batch(run_dir: Path) -> tuple[int, str]:
    """The last step that a run has recorded, and the hash of its batch; step 0 and "" if there is none."""
    records = reversed(_records(run_dir / METRICS_FILE))
    return next(((record["step"], record.get("batch", "")) for record in records if record["kind"] == "step"), (0, ""))


def validations(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of each validation that a run has recorded."""
    valid = [record for record in _records(run_dir / METRICS_FILE) if record.pop("kind") == "valid"]
    return [(record.pop("step"), record) for record in valid]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        Row(record["step"], {name: finite(value) for name, value in record["values"].items()})
        for record in records
        if record["kind"] in (_CURVES, _RESULTS)
    ]


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with None for NaN and infinity, which JSON lacks."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; its last line is dropped if writing it was interrupted.

    Raises:
        LinesError: another line is not a record.
    """
    if not path.exists():
        return []
    try:
        with path.open("rb") as file:
            lines = file.readlines()
    except OSError as error:
        raise LinesError(f"cannot read {path}: {error.strerror}") from None
    if lines and not lines[-1].endswith(b"}\n"):
        lines.pop()
    records = []
    try:
        for number, record in json_lines(lines, path):
            if not (
                isinstance(record, dict) and type(record.get("step")) is int and isinstance(record.get("kind"), str)
            ):
                raise LinesError(f"{path}, line {number}: expected a record with a kind and a step")
            records.append(record)
    except LinesError as error:
        raise LinesError(f"{error}. Remove that line, then start the same command again") from None
    return records
