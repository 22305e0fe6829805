"""Savings from starting behind the frozen layers, by method: users/s, operations and memory.

    python tests/benchmarks/frozen_prefix.py --data SHARDS [--layers 6] [--steps 5]

Each method is measured in processes of its own, one after another, on the same batches: training steps of a MiniLM text
tower, without the pass that fills the cache. Each cell has the ratio to full fine-tuning, then the ratio to the same
method without the cache. `loss` is the largest difference between the losses with and without the cache.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from transrec.config import validate
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.train_and_test import build_stream
from transrec.training.cost import measure
from transrec.training.optim import build_optimizer

ROOT = Path(__file__).parents[2]


def methods(layers: int) -> dict[str, dict[str, Any]]:
    houlsby = {"name": "houlsby", "towers": ["item"], "also_train": ["head"]}
    return {
        "full": {"name": "full"},
        "houlsby everywhere": houlsby,
        "houlsby top 2": houlsby | {"layers": [layers - 2, layers - 1]},
        "houlsby top 1": houlsby | {"layers": [layers - 1]},
        "k_adapter": {"name": "k_adapter", "towers": ["item"], "also_train": ["head"]},
        "side_network": {"name": "side_network", "also_train": ["head"]},
        "head_only": {"name": "head_only"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="shards with texts")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(train(arguments, *arguments.measure)))
        return
    columns = ("method", "users/s", "FLOPs", "encoder FLOPs", "memory", "loss")
    print("".join(f"{column:>20}" for column in columns))
    base: dict[str, Any] = {}
    for method in methods(arguments.layers):
        plain, kept = (in_own_process(arguments, method, mode) for mode in ("off", "auto"))
        base = base or plain
        differences = [abs(a - b) for a, b in zip(plain["losses"], kept["losses"], strict=True)]
        others = (base, plain)
        cells = [
            method,
            " ".join(f"{other['seconds'] / kept['seconds']:.2f}x" for other in others),
            *(
                " ".join(f"{kept[key] / other[key]:.4f}" for other in others)
                for key in ("flops", "encoder_flops", "peak_bytes")
            ),
            f"{max(differences):.2g}",
        ]
        print("".join(f"{cell:>20}" for cell in cells), flush=True)


def in_own_process(arguments: argparse.Namespace, method: str, mode: str) -> dict[str, Any]:
    options = ["--data", arguments.data, "--layers", str(arguments.layers), "--steps", str(arguments.steps)]
    command = [sys.executable, __file__, *options, "--measure", method]
    for wanted in ("fill", mode) if mode == "auto" else (mode,):  # filling the cache is not measured
        finished = subprocess.run(
            [*command, wanted], check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ
        )
    return json.loads(finished.stdout.splitlines()[-1])


def train(arguments: argparse.Namespace, method: str, mode: str) -> dict[str, Any]:
    experiment = validate(Experiment, configuration(arguments, method, mode))
    world = World()
    parts = build(experiment, world)
    if mode == "fill":
        return {}
    stream = build_stream(experiment, parts, world)
    optimizer = build_optimizer(experiment.optimizer, parts.model, offload=False)
    cost = measure(parts.model, stream[0], world.device, autocast=False)
    assert cost is not None
    batches = [stream[step][0] for step in range(arguments.steps + 1)]
    losses, began = [], 0.0
    for number, batch in enumerate(batches):
        if number == 1:  # the first step warms up
            began = time.perf_counter()
        loss = torch.stack(list(parts.model(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {
        "seconds": time.perf_counter() - began,
        "losses": losses,
        "flops": cost.forward + cost.backward,
        "encoder_flops": cost.towers["item_encoder"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def configuration(arguments: argparse.Namespace, method: str, mode: str) -> dict[str, Any]:
    encoder = {"name": "text", "backbone": "all-MiniLM-L6-v2", "pooling": "mean", "dropout": 0.0}
    return {
        "run_dir": "never-written",
        "data": {"path": arguments.data, "stride": 10},
        "model": {
            "item_encoder": encoder | {"layers": arguments.layers},
            "user_encoder": {"name": "sasrec", "dropout": 0.0},
            "objective": {"name": "in_batch_softmax"},
        },
        "adaptation": methods(arguments.layers)[method],
        "prefix_cache": {"mode": "off" if mode == "off" else "auto"},
        "train": {"batch_size": 64},
    }


if __name__ == "__main__":
    main()
