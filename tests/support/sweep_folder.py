"""A sweep's folder of small invented runs: what `launch/report.py` reads, without a training."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from transrec.evaluation.macro_f1 import macro_f1
from transrec.evaluation.metrics import metric
from transrec.sweeps.records import Record, write

METRICS_OF_RUNS = ("HR@10", "NDCG@10", "MRR@10")
LARGEST_SOURCE, LARGEST_TARGET = 1_000_000, 40_000
TRAINABLE = {"full": 20_000_000, "houlsby": 600_000}
CATALOGUE = 500

Loss = Callable[[Mapping[str, Any]], float]


def write_sweep(
    folder: Path, axes: Mapping[str, Sequence[Any]], loss: Loss, users: int = 300, noise: float = 0.01, seed: int = 0
) -> list[Record]:
    """A finished trial for every point of the grid, its mean loss being `loss(axes)` but for noise.

    Axes that mean something: `source_fraction`, `target_fraction`, `method`, `seed`, and `task` of classes, where
    `loss` is the share of wrong answers.
    """
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal(users)
    records = []
    for number, labels in enumerate(product(*axes.values())):
        at = dict(zip(axes, labels, strict=True))
        run, source = f"runs/{number:04x}", None
        if "source_fraction" in at:
            source = f"runs/source-{at['source_fraction']}-{at.get('seed', 0)}"
            write_run(folder / source, at["source_fraction"] * LARGEST_SOURCE, 20_000_000, np.ones(users), rng)
        losses = loss(at) * np.exp(noise * rng.standard_normal()) + 0.4 * tastes + 0.3 * rng.standard_normal(users)
        interactions = at.get("target_fraction", 1.0) * LARGEST_TARGET
        if "task" in at:
            write_task(folder / run, at["task"], interactions, loss(at), users, rng)
            records.append(Record(f"{number:05d}-{number:04x}", at, run, source, "done"))
            continue
        write_run(folder / run, interactions, TRAINABLE.get(at.get("method", ""), 1_000_000), losses, rng)
        records.append(Record(f"{number:05d}-{number:04x}", at, run, source, "done"))
    write(folder, records)
    (folder / "sweep.yaml").write_text(f"name: {folder.name}\n", encoding="utf-8")
    return records


def write_run(run: Path, interactions: float, trainable: int, losses: np.ndarray, rng: np.random.Generator) -> None:
    """The files of a run folder that a report reads; the smaller a user's loss, the better the rank."""
    run.mkdir(parents=True, exist_ok=True)
    chances = np.clip(np.exp(-losses), 1e-4, 0.9)
    ranks = np.minimum(rng.geometric(chances), CATALOGUE)
    columns = {
        "user_id": pa.array([f"u{i}" for i in range(len(losses))]),
        "target": pa.array([f"i{i}" for i in range(len(losses))]),
        "rank": pa.array(ranks, pa.int64()),
        "loss": pa.array(losses, pa.float32()),
    }
    pq.write_table(pa.table(columns), run / "test_users.parquet")
    (run / "config.yaml").write_text("data: {path: shards/b}\ntrain: {batch_size: 32}\n", encoding="utf-8")
    steps = int(interactions / 100) + 1
    summary = {
        "test": _metrics(ranks, losses),
        "data": {"users": len(losses), "interactions": int(interactions), "windows": int(interactions / 10)},
        "parameters": {"total": 21_000_000, "trainable": trainable},
        "steps": steps,
        "seconds": round(steps * trainable**0.3 / 100, 1),
        "peak_memory_bytes": 2**28 + 12 * trainable,
        "export_bytes": {"model.safetensors": 4 * trainable},
        "baselines": {"most_popular": {"HR@10": 0.1, "HR@10_interval": [0.05, 0.15]}},
        "flops_per_user": {"forward": 3_000_000, "backward": trainable, "useful": 1_000_000},
    }
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def write_task(run: Path, task: str, interactions: float, wrong: float, users: int, rng: np.random.Generator) -> None:
    """As `write_run`, of a task of three classes, the first of which half of the users have."""
    write_run(run, interactions, 1_000_000, np.ones(users), rng)
    answers = np.random.default_rng(list(task.encode())).choice(3, size=users, p=[0.5, 0.3, 0.2])
    predicted = np.where(rng.random(users) < wrong, (answers + rng.integers(1, 3, users)) % 3, answers)
    tested = pq.read_table(run / "test_users.parquet")
    tested = tested.set_column(1, "target", pa.array([f"{task} {k}" for k in answers]))
    tested = tested.set_column(2, "rank", pa.array(np.where(predicted == answers, 1, 2), pa.int64()))
    pq.write_table(
        tested.append_column("predicted", pa.array([f"{task} {k}" for k in predicted])), run / "test_users.parquet"
    )
    (run / "config.yaml").write_text("data: {path: shards/b}\ntrain: {batch_size: 32, monitor: accuracy}\n")
    summary = json.loads((run / "summary.json").read_text())
    accuracy = float((predicted == answers).mean())
    f1 = macro_f1(torch.from_numpy(answers), torch.from_numpy(predicted))
    summary["data"]["labels"] = int(interactions / 100)
    own = {name: summary["test"][name] for name in ("loss", "loss_interval")}
    own |= {"accuracy": accuracy, "accuracy_interval": [accuracy] * 2}
    own |= {"macro_F1": f1.value, "macro_F1_interval": [f1.low, f1.high]}
    share = float((answers == 0).mean())
    baselines = {"most_frequent": {"accuracy": share, "accuracy_interval": [share - 0.05, share + 0.05]}}
    (run / "summary.json").write_text(json.dumps(summary | {"test": own, "baselines": baselines}), encoding="utf-8")


def _metrics(ranks: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"loss": float(losses.mean()), "loss_interval": [float(losses.mean())] * 2}
    for name in METRICS_OF_RUNS:
        value = metric(name).estimate([torch.from_numpy(ranks)]).value
        found |= {name: value, f"{name}_interval": [value, value]}
    return found
