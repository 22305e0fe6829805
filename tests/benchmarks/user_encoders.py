"""Users/s of a causal NextItNet compared with SASRec of the same width, over item ids, on the same batches.

    python tests/benchmarks/user_encoders.py --data SHARDS [--width 64] [--length 20] [--batch 128] [--rounds 8]

Both are trained in one process and take turns, a step at a time, so that other load on the machine affects both alike.
Reported are the median step, in processor time if there is no accelerator, and the time of a step by operator. The
figures in docs/results/speed.md are for ml-1m's pairs, an interactions.parquet whose timestamps are the row numbers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from transrec.config import validate
from transrec.data.batch import SequenceBatch, to_device
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.train_and_test import build_stream
from transrec.training.cost import measure
from transrec.training.optim import build_optimizer

ENCODERS = {"sasrec": {"name": "sasrec", "layers": 2, "heads": 2, "dropout": 0.1}, "nextitnet": {"name": "nextitnet"}}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Trained:
    name: str
    step: Callable[[SequenceBatch], None]
    parameters: int
    flops_per_user: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="shards")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    batches: list[SequenceBatch] = []
    trained = [prepare(arguments, name, batches) for name in ENCODERS]
    seconds: dict[str, list[float]] = {name: [] for name in ENCODERS}
    for batch in batches:
        for model in trained:
            seconds[model.name].append(timed(model.step, batch))
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first warms up
    users = statistics.mean(len(batch.user_ids) for batch in batches)
    for model in trained:
        speed, ratio = users / median[model.name], median["sasrec"] / median[model.name]
        work = f"{model.parameters:,} parameters in the encoder, {model.flops_per_user / 1e6:.1f} MFLOPs per user"
        print(f"{model.name:10} {speed:10,.1f} users/s  {ratio:6.3f} of SASRec  {work}")
    for model in trained:
        print(f"\n{model.name}\n{where(model, batches[0])}")


def prepare(arguments: argparse.Namespace, name: str, batches: list[SequenceBatch]) -> Trained:
    """A model ready for steps; the first one fills `batches`, which all use."""
    experiment = validate(Experiment, configuration(arguments, name))
    parts = build(experiment, World())
    stream = build_stream(experiment, parts.examples, parts.store, World())
    if not batches:
        batches += [to_device(stream[step][0], DEVICE) for step in range(arguments.rounds + 1)]
    cost = measure(parts.model, stream[0], DEVICE, autocast=False)
    assert cost is not None
    model = parts.model.to(DEVICE)
    optimizer = build_optimizer(experiment.optimizer, model, offload=False)
    encoder: Any = model.user_encoder
    size = sum(p.numel() for p in encoder.parameters())
    return Trained(
        name, lambda batch: step(model, optimizer, batch), size, (cost.forward + cost.backward) // cost.users
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: SequenceBatch) -> None:
    loss = torch.stack(list(model(batch).values())).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def timed(step: Callable[[SequenceBatch], None], batch: SequenceBatch) -> float:
    clock = time.process_time if DEVICE.type == "cpu" else time.perf_counter
    began = clock()
    step(batch)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def where(model: Trained, batch: SequenceBatch) -> str:
    activities = {"cpu": [ProfilerActivity.CPU], "cuda": [ProfilerActivity.CPU, ProfilerActivity.CUDA]}
    with profile(activities=activities[DEVICE.type]) as seen:
        model.step(batch)
    return seen.key_averages().table(sort_by=f"self_{DEVICE.type}_time_total", row_limit=8, max_name_column_width=40)


def configuration(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    return {
        "run_dir": "never-written",
        "data": {"path": arguments.data},
        "model": {
            "width": arguments.width,
            "max_length": arguments.length,
            "item_encoder": {"name": "id_embedding"},
            "user_encoder": ENCODERS[name],
            "objective": {"name": "full_softmax"},
        },
        "train": {"batch_size": arguments.batch},
    }


if __name__ == "__main__":
    main()
