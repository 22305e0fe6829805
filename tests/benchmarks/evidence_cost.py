"""The time that evidence adds to a training step and to an evaluation.

    python tests/benchmarks/evidence_cost.py --data SHARDS [--config transrec/text_sasrec] [--steps 6] [KEY=VALUE ...]

With and without evidence take turns in one process, so that whatever else the machine does hits both alike. A step is
the batch and the forward and backward passes; an evaluation encodes the catalogue and ranks a validation.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from transrec.config import find, load
from transrec.data.batch import to_device
from transrec.distributed import world as distributed
from transrec.evaluation.evaluator import Evaluator
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.train_and_test import build_stream

EVIDENCE = "model.evidence=[{name: co_occurrence}, {name: transitions}, {name: content_similarity}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="shards")
    parser.add_argument("--config", default="transrec/text_sasrec")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    world = distributed.join()
    kinds = {"without": "model.evidence=[]", "with": EVIDENCE}
    made = {name: prepare(arguments, evidence, world) for name, evidence in kinds.items()}
    for what, most in (("step", arguments.steps), ("evaluation", 3)):
        ratios = []
        for number in range(most):
            without, with_evidence = (seconds(made[name][what], number) for name in kinds)
            ratios.append(with_evidence / without - 1)
        added = ratios[1:]  # the first warms up
        print(
            f"{what}: {statistics.median(added):+.1%} with evidence ({min(added):+.1%} to {max(added):+.1%})",
            flush=True,
        )


def seconds(action: Callable[[int], Any], number: int) -> float:
    start = time.perf_counter()
    action(number)
    return time.perf_counter() - start


def prepare(arguments: argparse.Namespace, evidence: str, world: distributed.World) -> dict[str, Callable[[int], Any]]:
    """A training step and an evaluation."""
    overrides = [f"data.path={arguments.data}", "run_dir=none", evidence, *arguments.overrides]
    experiment = load(Experiment, find(arguments.config), overrides)
    parts = build(experiment, world)
    stream = build_stream(experiment, parts.examples, parts.store, world)
    evaluator = Evaluator(experiment.evaluation, parts.examples, world)
    parts.model.to(world.device)

    def step(number: int) -> None:
        parts.model.train()
        for batch in stream[number]:
            sum(parts.model(to_device(batch, world.device)).values()).backward()
        if world.device.type == "cuda":
            torch.cuda.synchronize()

    return {"step": step, "evaluation": lambda number: evaluator.model(parts.model, parts.store, "valid")}


if __name__ == "__main__":
    main()
