"""Evaluate a run: `python launch/evaluate.py --run R --split valid|test [--data OTHER_SHARDS]`."""

import argparse
import json
import sys
from pathlib import Path

from transrec import distributed
from transrec.data import bad_samples
from transrec.data.evaluation_stream import Part
from transrec.data.interactions import Interactions
from transrec.data.remote import parse_place
from transrec.errors import TransRecError
from transrec.evaluation.evaluator import Evaluator, baselines
from transrec.evaluation.report import as_json, console, table
from transrec.experiment import load_run, model_of, open_store, rebuild_for


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--data", metavar="DIR|URL", help="other shards than those the run was trained on")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # put in by the deepspeed launcher
    arguments = parser.parse_args(argv)
    try:
        evaluate(arguments.run, arguments.split, arguments.data)
    except TransRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(run_dir: Path, part: Part, data: str | None) -> None:
    world = distributed.join()
    experiment = load_run(run_dir)
    config = experiment.data.model_copy(update={"path": parse_place(data)}) if data else experiment.data
    interactions = Interactions.scan(config, experiment.model.max_length, world.union)
    model = rebuild_for(experiment, run_dir, interactions.shards.index).to(world.device)
    store = open_store(model_of(experiment, run_dir), interactions.shards.folder, config, world)
    estimates = Evaluator(experiment.evaluation, interactions, world).model(model, store, part)
    distributed.stop(world)
    if world.is_main:
        bad_samples.warn(interactions.shards.skipped, store.skipped)
        rows = baselines(experiment.evaluation, interactions, part)
        console().print(table(rows | {run_dir.name: estimates}))
        print(json.dumps({"run": str(run_dir), "data": str(interactions.shards.folder), part: as_json(estimates)}))


if __name__ == "__main__":
    sys.exit(main())
