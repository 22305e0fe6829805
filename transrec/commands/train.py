"""Train an experiment: `deepspeed launch/train.py --config C [a.b=value …]`, or `transrec train …` on one process.

Without a checkout, start several processes with `deepspeed --module transrec.commands.train --config C …`.
"""

import argparse
import sys
from collections.abc import Sequence

from transrec.commands.entry import add_json, command
from transrec.config import dump, find, load
from transrec.experiment import Experiment
from transrec.runs.train_and_test import check, run
from transrec.training.stopping import Interrupted, Paused

SIGTERM_EXIT = 143  # 128 + SIGTERM
PAUSED_EXIT = 138  # 128 + SIGUSR1, also what a shell reports if that signal comes before or after training


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    experiment = load(Experiment, find(arguments.config), arguments.overrides)
    if arguments.print_config:
        check(experiment)
        print(dump(experiment), end="")
        for name, rate in experiment.adapter_rates().items():
            print(f"# learning rate of the adapters ({name}): {rate:g}, set by their method")
        return 0
    try:
        run(experiment, document=arguments.json)
    except Interrupted as message:
        print(message, file=sys.stderr)
        return PAUSED_EXIT if isinstance(message, Paused) else SIGTERM_EXIT
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_intermixed_args(argv)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="transrec train", description=__doc__)
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="YAML file, or the name of a shipped one, such as quickstart",
    )
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    add_json(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="configuration values to override")
    return parser


if __name__ == "__main__":
    sys.exit(main())
