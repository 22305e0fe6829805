"""Train an experiment: `deepspeed launch/train.py --config C [a.b=value …]`.

With `python` in place of `deepspeed` it is one process.
"""

import argparse
import os
import sys
from pathlib import Path

from transrec.config import dump, load
from transrec.errors import TransRecError
from transrec.experiment import Experiment
from transrec.runs.train_and_test import run
from transrec.training.trainer import Interrupted

SIGTERM_EXIT = 143


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        experiment = load(Experiment, arguments.config, arguments.overrides)
        if arguments.print_config:
            print(dump(experiment), end="")
            return 0
        run(experiment)
    except Interrupted as message:
        print(message, file=sys.stderr)
        return SIGTERM_EXIT
    except TransRecError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {error}" if rank == "0" else f"error on rank {rank}: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, e.g. configs/quickstart.yaml")
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # put in by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="configuration values to change")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
