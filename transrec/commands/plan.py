"""Estimate the cost of a larger run: `transrec plan --config C --users N --items N --nodes N --gpus N --run R`.

Times are extrapolated from rehearsals: finished runs of the same configuration on small data sets, on the same kind of
device. With two rehearsals whose sizes differ by a factor of ten, the plan shows how well the scaling law of each piece
holds; with three, it separates fixed costs from those that grow. Without any, it contains only memory, disk and
storage. The command takes the same settings as the training.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, positive, print_json
from transrec.config import find, load
from transrec.experiment import Experiment
from transrec.planning.plan import make_plan
from transrec.planning.view import as_json, show
from transrec.terminal import console


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    experiment = load(Experiment, find(arguments.config), arguments.overrides)
    plan = make_plan(
        experiment,
        round(arguments.users),
        round(arguments.items),
        arguments.nodes,
        arguments.gpus,
        arguments.interactions_per_user,
        arguments.run,
    )
    if arguments.json:
        print_json(as_json(plan))
    else:
        console().print(show(plan))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_intermixed_args(argv)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="YAML file, or the name of a shipped one, such as quickstart",
    )
    parser.add_argument("--users", required=True, type=positive(float), metavar="N", help="number, such as 100e6")
    parser.add_argument("--items", required=True, type=positive(float), metavar="N", help="number, such as 10e6")
    parser.add_argument(
        "--interactions-per-user", type=positive(float), metavar="N", help="default: as in the largest rehearsal"
    )
    parser.add_argument("--nodes", type=positive(int), default=1, metavar="N", help="default: 1")
    parser.add_argument("--gpus", type=positive(int), default=1, metavar="N", help="ranks of a node; default: 1")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], metavar="DIR", help="a rehearsal; may be given several times"
    )
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="configuration values to override")
    return parser


if __name__ == "__main__":
    sys.exit(main())
