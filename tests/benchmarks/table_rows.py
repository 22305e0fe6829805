"""Time of a training step over item ids, by number of ids and optimizer of their table.

    python tests/benchmarks/table_rows.py [--rows 10000 1000000] [--width 64] [--batch 64] [--rounds 7]

The batches are those of a small synthetic set whose items are renumbered at random within each catalogue, so that only
the size of the table differs. Steps are those of DeepSpeed's engine without ZeRO, with clipping. The optimizers
take turns, a step at a time; the median of each is reported. Item popularity is that of the small set.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_tools.build import build as build_shards
from data_tools.sources.synthetic import SyntheticSource
from transrec.config import validate
from transrec.data.batch import SequenceBatch, to_device
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.train_and_test import build_stream
from transrec.training.engine import deepspeed_config, initialize
from transrec.training.optim import build_optimizer, build_table_optimizer
from transrec.training.tables import EngineWithTables, Tables

OPTIMIZERS = {"AdamW": None, "lazy_adam": {"name": "lazy_adam"}, "rowwise_adagrad": {"name": "rowwise_adagrad"}}
OBJECTIVES = ("next_item", "in_batch_softmax")
CLIPPING = 1.0

Step = Callable[[SequenceBatch], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    world = distributed.start()
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        build_shards(SyntheticSource(2_000, 8_000, 60_000, 0), "synthetic", shards)
        for objective in OBJECTIVES:
            for rows in arguments.rows:
                for name, milliseconds in measure(arguments, shards, objective, rows, world).items():
                    figures = {"objective": objective, "rows": rows, "optimizer": name, "ms": round(milliseconds, 1)}
                    print(json.dumps(figures), flush=True)
    distributed.stop(world)


def measure(arguments: argparse.Namespace, shards: Path, objective: str, rows: int, world: World) -> dict[str, float]:
    """The median milliseconds of a step of each optimizer."""
    experiment = validate(Experiment, configuration(arguments, shards, objective))
    parts = build(experiment, world)
    stream = build_stream(experiment, parts.examples, parts.store, world)
    steps = {name: engine_step(experiment, rows, name, world) for name in OPTIMIZERS}
    seconds: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    random = torch.Generator().manual_seed(0)
    for number in range(arguments.rounds + 1):
        batch = to_device(renumbered(stream[number][0], rows, random), world.device)
        for name, step in steps.items():
            seconds[name].append(timed(step, batch))
    return {name: 1e3 * statistics.median(times[1:]) for name, times in seconds.items()}  # the first warms up


def renumbered(batch: SequenceBatch, rows: int, random: torch.Generator) -> SequenceBatch:
    """The batch with its items renumbered within a catalogue of `rows` items; the padding item is kept."""
    items = torch.randint(1, rows + 1, batch.content.items.shape, generator=random)
    return replace(batch, content=replace(batch.content, items=items.where(batch.content.items > 0, 0)))


def engine_step(experiment: Experiment, rows: int, name: str, world: World) -> Step:
    chosen = experiment.optimizer.model_dump() | {"embedding": OPTIMIZERS[name]}
    optimizer = validate(type(experiment.optimizer), chosen)
    model = experiment.model.build(rows)
    settings = deepspeed_config(experiment.zero, "fp32", experiment.train.batch_size, 1, CLIPPING, {})
    engine: Any = initialize(model, build_optimizer(optimizer, model, {}, offload=False), settings)
    of_tables = build_table_optimizer(optimizer, model)
    if of_tables is not None:
        engine = EngineWithTables(engine, Tables(of_tables, world), CLIPPING)

    def step(batch: SequenceBatch) -> None:
        [(loss, terms)] = engine(batch).items()
        engine.backward(terms / batch.counts[loss])
        engine.step()

    return step


def timed(step: Step, batch: SequenceBatch) -> float:
    began = time.perf_counter()
    step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def configuration(arguments: argparse.Namespace, shards: Path, objective: str) -> dict[str, Any]:
    return {
        "run_dir": "never-written",
        "data": {"path": str(shards)},
        "model": {
            "width": arguments.width,
            "item_encoder": {"name": "id_embedding"},
            "user_encoder": {"name": "sasrec", "layers": 2, "heads": 2},
            "objective": {"name": objective},
        },
        "optimizer": {"lr": {"embedding": 0.01}},
        "train": {"batch_size": arguments.batch},
    }


if __name__ == "__main__":
    main()
