"""Progress of a running sweep: a live table on a terminal, otherwise a line whenever a run ends."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from transrec.evaluation.metrics import metric
from transrec.runs.summary import read_summary
from transrec.sweeps.driver import Driver
from transrec.sweeps.plan import STAGES, Run, Stage

_SECONDS_BETWEEN_LOOKS = 2.0


class View:
    """Context manager that shows the driver's progress on `console`."""

    def __init__(self, driver: Driver, console: Console) -> None:
        self.driver, self.console = driver, console
        self.began = time.monotonic()
        self._counts: list[Any] = []
        self._pace: tuple[Stage, float, int] | None = None  # stage, when it was first seen, its runs ended by then

    def __enter__(self) -> "View":
        self._live = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=1 / _SECONDS_BETWEEN_LOOKS
        )
        if self.console.is_terminal:
            self._live.start()
        else:
            self.driver.changed = self._say
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._live.stop()
        else:
            self.console.print(self.table())

    def table(self) -> Table:
        columns = ("stage", "runs", "done", "failed", "stopped", "best in validation")
        view = Table(*columns, title=f"sweep {self.driver.sweep.name}")
        for stage in STAGES:
            runs = self.driver.plan.of(stage)
            status = [self.driver.states[run.hash].status for run in runs]
            counts = [str(status.count(kind)) for kind in ("done", "failed", "stopped")]
            if runs:
                view.add_row(stage, str(len(runs)), *counts, self._best(runs))
        view.caption = self._eta()
        return view

    def _best(self, runs: list[Run]) -> str:
        """The best validation result among finished runs, and its axes: choosing by the test would use it up."""
        values = {run.hash: value for run in runs if (value := _valid(run)) is not None}
        if not values:
            return "-"
        monitor = runs[0].experiment.train.monitor
        best = (max if metric(monitor).higher_is_better else min)(values, key=lambda name: values[name])
        axes = next((t.axes for t in self.driver.plan.trials if best in (t.run, t.source)), {})
        return f"{monitor} {values[best]:.4f}  {_label(axes)}"

    def _settled(self) -> int:
        return sum(state.status != "pending" for state in self.driver.states.values())

    def _eta(self) -> str:
        """Minutes so far, and minutes left in the current stage at the stage's own pace: a pretraining may take as long
        as twenty adaptations."""
        now = time.monotonic()
        said = f"{(now - self.began) / 60:.1f} min"
        stage = next((stage for stage in STAGES if self._pending(stage)), None)
        if stage is None:
            return said
        left = self._pending(stage)
        ended = len(self.driver.plan.of(stage)) - left
        if self._pace is None or self._pace[0] != stage:
            self._pace = (stage, now, ended)
        _, began, before = self._pace
        if ended == before:
            return said
        return f"{said}, about {(now - began) / (ended - before) * left / 60:.0f} min left for {stage}s"

    def _pending(self, stage: Stage) -> int:
        return sum(self.driver.states[run.hash].status == "pending" for run in self.driver.plan.of(stage))

    def _say(self) -> None:
        counts = [state.status for state in self.driver.states.values()]
        if counts != self._counts:
            self._counts = counts
            self.console.print(
                f"{self._settled()} of {len(counts)} runs ended, {counts.count('failed')} failed  [{self._eta()}]",
                highlight=False,
            )


def _label(axes: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in axes.items())


def _valid(run: Run) -> float | None:
    found = (read_summary(run.experiment.run_dir) or {}).get("valid")
    value = found.get(run.experiment.train.monitor) if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) else None
