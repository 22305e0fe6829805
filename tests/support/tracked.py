"""Reads the points of every curve back from the files of a tracker, in file order."""

import csv
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # first, or reading events imports TensorFlow's stub twice

Points = dict[str, list[tuple[int, float]]]  # curve -> (step, value) of each point

NAMES = ("tensorboard", "csv", "wandb", "mlflow")
OFFLINE = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
BLOCK, HEADER = 32768, 7  # bytes of the log format of LevelDB, in which W&B keeps an offline run


def needs(tracker: str) -> None:
    """Skip the test if the tracker's library is not installed; keep it offline."""
    os.environ.update(OFFLINE)
    for module in {"wandb": ["wandb"], "mlflow": ["mlflow", "sqlalchemy", "alembic"]}.get(tracker, []):
        pytest.importorskip(module)


def points(tracker: str, run_dir: Path) -> Points:
    """The points that a tracker has of a run, by the name of the curve."""
    found: Points = {}
    for name, step, value in _READERS[tracker](run_dir):
        found.setdefault(name, []).append((step, value))
    return found


def _of_tensorboard(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    for tag in events.Tags()["tensors"]:
        if not tag.startswith("_"):  # of the HParams tab
            for event in events.Tensors(tag):
                yield tag, event.step, float(tensor_util.make_ndarray(event.tensor_proto))


def _of_csv(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    with (run_dir / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["name"], int(row["step"]), float(row["value"])


def _of_mlflow(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir / 'mlflow' / 'mlflow.db'}")
    run = client.get_run((run_dir / "mlflow" / "run_id").read_text().strip())
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            yield name.replace("_at_", "@"), point.step, point.value


def _of_wandb(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    until = time.monotonic() + 60
    while not any(record.WhichOneof("record_type") == "exit" for record in wandb_records(run_dir)):
        assert time.monotonic() < until, "the process of W&B, which outlives the run, does not end"
        time.sleep(0.1)
    for record in wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            row = {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() - {"step"}:
                if not name.startswith("_"):
                    yield name, row["step"], float(row[name])


def wandb_records(run_dir: Path) -> Iterator[Any]:
    """The records of the one offline run in the folder, as W&B would send them."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    for data in _log_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def _log_records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, which are cut at the ends of blocks; the file begins with W&B's own header."""
    place, parts = HEADER, b""
    while place + HEADER <= len(log):
        if BLOCK - place % BLOCK < HEADER:  # no room for a header: the block ends with zeros
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", log, place)
        parts += log[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


_READERS = {"tensorboard": _of_tensorboard, "csv": _of_csv, "mlflow": _of_mlflow, "wandb": _of_wandb}
