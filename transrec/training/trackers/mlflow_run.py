"""The curves of a run in MLflow."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from transrec.config import Config
from transrec.extras import needed
from transrec.files import write_text
from transrec.training.trackers.tracker import Row, TrackedRun, Tracker, plain, reporting

FOLDER = "mlflow"
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _LONGEST_PARAMETER = 1000, 100, 500  # limits of MLflow's servers
_REMEDY = "check `uri` of the tracker, or MLFLOW_TRACKING_URI"


class MlflowConfig(Config):
    """MLflow: a server, or `mlflow/` of the run folder."""

    name: Literal["mlflow"] = Field("mlflow", description="the tracker")
    uri: str | None = Field(
        None, description="tracking server; null: MLFLOW_TRACKING_URI, or a database in the run folder if that is unset"
    )
    experiment: str = Field("transrec", description="experiment of the run")

    def open(self, run: TrackedRun) -> "MlflowRun":
        return MlflowRun(self, run)

    def check(self) -> None:
        """
        Raises:
            ExtraError: a library is not installed.
        """
        needed("mlflow", "the tracker mlflow", "mlflow", "sqlalchemy", "alembic")


class MlflowRun(Tracker):
    """A run of MLflow whose id is kept in `mlflow/` of the run folder.

    MLflow keeps every point that it receives, so points that it already has are not sent again.
    """

    def __init__(self, config: MlflowConfig, run: TrackedRun) -> None:
        tracking, self._entities, environment = needed(
            "mlflow", "the tracker mlflow", "mlflow.tracking", "mlflow.entities", "mlflow.environment_variables"
        )
        folder = run.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._finished = False
        uri = config.uri or environment.MLFLOW_TRACKING_URI.get()
        artifacts = None if uri else (folder / "artifacts").absolute().as_uri()
        with reporting("mlflow", _REMEDY):
            self._client = tracking.MlflowClient(uri or f"sqlite:///{(folder / 'mlflow.db').absolute()}")
            self._id = self._opened(folder / "run_id", config.experiment, artifacts, run.name)
            self._held = self._points()
            self._add_parameters(run.hyperparameters)
            self._add(run.earlier)

    def scalars(self, row: Row) -> None:
        with reporting("mlflow", _REMEDY):
            self._add([row])

    def results(self, row: Row) -> None:
        self.scalars(row)
        self._finished = True

    def flush(self) -> None:
        """Does nothing: every point was written when it was added."""

    def close(self) -> None:
        with reporting("mlflow", _REMEDY):
            self._client.set_terminated(self._id, "FINISHED" if self._finished else "KILLED")

    def _opened(self, file: Path, experiment: str, artifacts: str | None, name: str) -> str:
        """The id of the run, which is created if the store does not have it."""
        known = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment, artifacts)
        if known and self._has(known):
            self._client.update_run(known, "RUNNING")
            return known
        identity: str = self._client.create_run(place, run_name=name).info.run_id
        write_text(file, f"{identity}\n")
        return identity

    def _has(self, run: str) -> bool:
        """Whether the store has a run; it does not if the tracker now uses another store."""
        (exceptions,) = needed("mlflow", "the tracker mlflow", "mlflow.exceptions")
        try:
            self._client.get_run(run)
        except exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _points(self) -> set[tuple[str, int]]:
        """The points that the store has: name of the curve, and step."""
        names = self._client.get_run(self._id).data.metrics
        return {(name, point.step) for name in names for point in self._client.get_metric_history(self._id, name)}

    def _add_parameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Add the settings that the store does not have; MLflow refuses to change existing ones."""
        known = self._client.get_run(self._id).data.params
        new = [
            self._entities.Param(key, str(plain(value))[:_LONGEST_PARAMETER])
            for key, value in hyperparameters.items()
            if key not in known
        ]
        for start in range(0, len(new), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + _PARAMETERS_AT_ONCE])

    def _add(self, rows: Iterable[Row]) -> None:
        now = int(time.time() * 1000)  # milliseconds, as MLflow counts
        metrics = [
            self._entities.Metric(metric_name(tag), value, now, row.step)
            for row in rows
            for tag, value in row.values.items()
            if (metric_name(tag), row.step) not in self._held
        ]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS_AT_ONCE])


def metric_name(tag: str) -> str:
    """`valid/HR@10` -> `valid/HR_at_10`: MLflow does not allow `@` in names."""
    return tag.replace("@", "_at_")
