"""The time that evidence adds to an evaluation; it adds nothing to a training step.

    python tests/benchmarks/evidence_cost.py --data SHARDS [--config transrec/text_sasrec] [KEY=VALUE ...]

Evaluations with and without evidence take turns in one process, so that other load on the machine affects both alike.
An evaluation encodes the catalogue and ranks a validation.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from transrec.config import find, load
from transrec.distributed import world as distributed
from transrec.evaluation.evaluator import Evaluator
from transrec.experiment import Experiment
from transrec.runs.build import build

EVIDENCE = "model.evidence=[{name: co_occurrence}, {name: transitions}, {name: content_similarity}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="shards")
    parser.add_argument("--config", default="transrec/text_sasrec")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    world = distributed.join()
    kinds = {"without": "model.evidence=[]", "with": EVIDENCE}
    made = {name: prepare(arguments, evidence, world) for name, evidence in kinds.items()}
    ratios = []
    for _ in range(3):
        without, with_evidence = (seconds(made[name]) for name in kinds)
        ratios.append(with_evidence / without - 1)
    added = ratios[1:]  # the first warms up
    print(f"evaluation: {statistics.median(added):+.1%} with evidence ({min(added):+.1%} to {max(added):+.1%})")


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def prepare(arguments: argparse.Namespace, evidence: str, world: distributed.World) -> Callable[[], Any]:
    """An evaluation."""
    overrides = [f"data.path={arguments.data}", "run_dir=none", evidence, *arguments.overrides]
    experiment = load(Experiment, find(arguments.config), overrides)
    parts = build(experiment, world)
    evaluator = Evaluator(experiment.evaluation, parts.examples, world)
    parts.model.to(world.device)
    return lambda: evaluator.model(parts.model, parts.store, "valid")


if __name__ == "__main__":
    main()
