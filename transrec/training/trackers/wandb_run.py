"""The curves of a run in Weights & Biases.

W&B numbers rows itself, and a resumed run continues with the number after its last row. Row i in W&B is row i of the
run's `metrics.jsonl`, so a resumed run knows which rows W&B has: those below the number that W&B begins with. An
offline run begins with 0: all of its rows are written again, to a new file that replaces the old one.
"""

import shutil
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import Field

from transrec.config import Config
from transrec.extras import needed
from transrec.training.trackers.tracker import Row, TrackedRun, Tracker, kept_id, plain, reporting

FOLDER = "wandb"
_STEP = "step"
_REMEDY = "log in with `wandb login`, or set WANDB_MODE=offline and send the run later with `wandb sync`"


class WandbConfig(Config):
    """Weights & Biases. `WANDB_MODE=offline` keeps the run in `wandb/` of the run folder, for `wandb sync`."""

    name: Literal["wandb"] = Field("wandb", description="the tracker")
    project: str = Field("transrec", description="project of the run")
    entity: str | None = Field(None, description="user or team of the project; null: the one that is logged in")

    def open(self, run: TrackedRun) -> "WandbRun":
        return WandbRun(self, run)

    def check(self) -> None:
        """
        Raises:
            ExtraError: the library is not installed.
        """
        needed("wandb", "the tracker wandb", "wandb")


class WandbRun(Tracker):
    """A run of W&B whose id is kept in `wandb/` of the run folder."""

    def __init__(self, config: WandbConfig, run: TrackedRun) -> None:
        (wandb,) = needed("wandb", "the tracker wandb", "wandb")
        identity = kept_id(run.folder / FOLDER / "run_id", uuid4().hex[:12])
        before = list((run.folder / FOLDER).glob(f"offline-run-*-{identity}"))
        with reporting("wandb", _REMEDY):
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                id=identity,
                name=run.name,
                resume="allow",
                dir=str(run.folder),
                config={key: plain(value) for key, value in run.hyperparameters.items()},
                # W&B's output would break the progress bar; environment.yaml has the versions, and code is not needed.
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, x_save_requirements=False
                ),
            )
            self._run.define_metric(_STEP)
            self._run.define_metric("*", step_metric=_STEP)
            self._held, self._row = int(self._run.step), 0
        for row in run.earlier:
            self.scalars(row)
        if self._run.offline:
            _remove(before)

    def scalars(self, row: Row) -> None:
        with reporting("wandb", _REMEDY):
            if self._row >= self._held:
                self._run.log({_STEP: row.step, **row.values}, step=self._row, commit=True)
            self._row += 1

    def flush(self) -> None:
        """Does nothing: W&B writes by itself, and what it loses in a killed run is written again on resuming."""

    def close(self) -> None:
        with reporting("wandb", _REMEDY):
            self._run.finish()


def _remove(folders: list[Path]) -> None:
    """Remove offline runs whose rows are in the new one."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
