"""Progress and records of a run: progress bar, TensorBoard, metrics.jsonl."""

import json
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from transrec.files import LinesError, json_lines, write_text, writing
from transrec.terminal import messages

METRICS_FILE = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 30.0


class Tracker:
    """Records of a run from `start_step` on; later records of an interrupted run are dropped."""

    def __init__(self, run_dir: Path, start_step: int, total_steps: int) -> None:
        self._path = run_dir / METRICS_FILE
        self._events = run_dir / "tensorboard"
        kept = [record for record in _records(self._path) if record["step"] <= start_step]
        write_text(self._path, "".join(f"{json.dumps(record)}\n" for record in kept))
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        threading.excepthook = _without_tensorboard
        with writing(self._events):
            self._board = SummaryWriter(str(self._events), purge_step=start_step + 1)
        self.console = messages()
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
        """Write points of TensorBoard curves."""
        with writing(self._events):
            for tag, value in values.items():
                self._board.add_scalar(tag, value, step, new_style=True)

    def advance(self, step: int, loss: float, users_per_second: float, seconds_a_step: float) -> None:
        """Update the progress bar; off a terminal, print a line now and then."""
        with writing(self._path):
            self._file.flush()
        self._progress.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{users_per_second:.0f}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = seconds_a_step * (self._total - step)
            self.say(
                f"step {step}/{self._total}  loss {loss:.4f}  {users_per_second:.0f} users/s  "
                f"at most {left / 60:.1f} min left, plus validations and test"
            )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Show the run in TensorBoard's HParams tab.

        They go into the run's own event file: `SummaryWriter.add_hparams` would create a new run for every call.
        """
        flat = {key: v if isinstance(v, bool | int | float) else str(v) for key, v in values.items()}
        with writing(self._events):
            for summary in hparams(flat, dict.fromkeys(metrics)):
                self._board._get_file_writer().add_summary(summary)
        self.scalars(step, metrics)

    def flush(self) -> None:
        """Write all records to disk, before a checkpoint: a run resumed from it does not write them again."""
        with writing(self._path):
            self._file.flush()
        with writing(self._events):
            self._board.flush()

    def close(self) -> None:
        """Stop the progress bar and close the files."""
        self._progress.stop()
        with writing(self._path):
            self._file.close()
        with writing(self._events):
            self._board.close()


def steps_done(run_dir: Path) -> int:
    """The last step that a run has recorded."""
    return last_batch(run_dir)[0]


def last_batch(run_dir: Path) -> tuple[int, str]:
    """The last step that a run has recorded, and the hash of its batch; without any, step 0."""
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


def _without_tensorboard(failure: threading.ExceptHookArgs) -> None:
    """Suppress the traceback of TensorBoard's thread: its failure is raised by the next call and reported then."""
    if not isinstance(failure.thread, _AsyncWriterThread):
        threading.__excepthook__(failure)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with None for NaN and infinity, which JSON lacks."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of a file whose last line may be incomplete, as its writing may have been interrupted.

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
                raise LinesError(f"{path}, line {number}: no record with a kind and a step")
            records.append(record)
    except LinesError as error:
        raise LinesError(f"{error}. Remove that line; then start the same command again") from None
    return records
