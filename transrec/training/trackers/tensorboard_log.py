"""The curves of a run in TensorBoard, with its HParams tab and its projector of item vectors.

Shape letters: I shown items, D width.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from transrec.config import Config
from transrec.files import replace_atomically, write_text, writing
from transrec.terminal import shortened
from transrec.training.trackers.tracker import Row, ShownItems, TrackedRun, Tracker, plain

FOLDER = "tensorboard"
VECTORS, COLUMNS, PROJECTOR = "item_vectors.tsv", "items.tsv", "projector_config.pbtxt"
_PROJECTOR = f"""embeddings {{
  tensor_name: "items"
  tensor_path: "{VECTORS}"
  metadata_path: "{COLUMNS}"
}}
"""


class TensorBoardConfig(Config):
    """TensorBoard, in `tensorboard/` of the run folder."""

    name: Literal["tensorboard"] = Field("tensorboard", description="the tracker")
    items: int = Field(
        1000, ge=0, description="number of most frequent items whose vectors the projector shows at the end; 0: none"
    )

    def open(self, run: TrackedRun) -> "TensorBoardLog":
        return TensorBoardLog(run)

    def check(self) -> None:
        """Does nothing: TensorBoard is always installed."""


class TensorBoardLog(Tracker):
    """Writes event files. From the first step of a later file on, TensorBoard ignores the points of earlier files."""

    def __init__(self, run: TrackedRun) -> None:
        self._run, self._folder = run, run.folder / FOLDER
        threading.excepthook = _without_tensorboard
        # The last step may have results; a run that is started again after its end writes them again.
        last = [row for row in run.earlier if row.step == run.start_step]
        missing = last if self._folder.exists() else run.earlier
        with writing(self._folder):
            _await_new_second(self._folder)
            self._board = SummaryWriter(str(self._folder), purge_step=run.start_step + (not last))
        for row in missing:
            self.scalars(row)

    def scalars(self, row: Row) -> None:
        with writing(self._folder):
            for tag, value in row.values.items():
                self._board.add_scalar(tag, value, row.step, new_style=True)

    def results(self, row: Row) -> None:
        """Add the hyperparameters, for the HParams tab, and the metrics.

        Both go into the run's own event file: `SummaryWriter.add_hparams` would create a new run for every call.
        """
        flat = {key: plain(value) for key, value in self._run.hyperparameters.items()}
        with writing(self._folder):
            for summary in hparams(flat, dict.fromkeys(row.values)):
                self._board._get_file_writer().add_summary(summary)
        self.scalars(row)

    def items(self, items: ShownItems) -> None:
        """Write the files of the projector: the vectors (I, D), the texts of their items, and a list of both files.

        `SummaryWriter.add_embedding` would add another set of files whenever a finished run is started again.
        """
        with replace_atomically(self._folder / VECTORS) as partial:
            np.savetxt(partial, items.vectors.cpu().numpy(), fmt="%.5g", delimiter="\t")
        lines = ["\t".join(items.columns), *map("\t".join, zip(*map(_cells, items.columns.values()), strict=True))]
        write_text(self._folder / COLUMNS, "\n".join(lines) + "\n")
        write_text(self._folder / PROJECTOR, _PROJECTOR)

    def flush(self) -> None:
        with writing(self._folder):
            self._board.flush()

    def close(self) -> None:
        with writing(self._folder):
            self._board.close()


def _await_new_second(folder: Path) -> None:
    """Wait until no event file begins with the current second, because readers take files in the order of their names.

    Within a second, names are ordered by host, process and a counter without leading zeros, not by time of writing.
    """
    if any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(1 - time.time() % 1)


def _cells(texts: Sequence[str]) -> list[str]:
    return [shortened(text) for text in texts]


def _without_tensorboard(failure: threading.ExceptHookArgs) -> None:
    """Suppress the traceback of TensorBoard's thread: its failure is raised by the next call and reported then."""
    if not isinstance(failure.thread, _AsyncWriterThread):
        threading.__excepthook__(failure)
