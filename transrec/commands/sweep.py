"""Run a sweep on Ray: `transrec sweep --config FILE|NAME [a.b=value …]`.

Each run is a Ray Tune trial and writes its results to its run folder. Run the same command with --resume to continue.
"""

import argparse
import sys
from collections.abc import Sequence

from transrec.commands.entry import INTERRUPTED, add_json, command, print_json
from transrec.config import dump, find
from transrec.sweeps import forecast
from transrec.sweeps.config import load_sweep
from transrec.sweeps.plan import check, make_plan, remarks
from transrec.sweeps.ray_executor import run_sweep
from transrec.terminal import console


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    sweep = load_sweep(find(arguments.config), arguments.overrides)
    for remark in remarks(sweep):
        print(f"warning: {remark}", file=sys.stderr)
    if arguments.print_config:
        check(sweep)
        print(dump(sweep), end="")
        return 0
    if arguments.dry_run:
        plan = make_plan(sweep)
        work = forecast.forecast(sweep, plan)
        if arguments.json:
            print_json(forecast.as_json(plan, work))
        else:
            console().print(forecast.show(sweep, plan, work))
        return 0
    try:
        return 0 if run_sweep(sweep, arguments.resume, arguments.address) else 1
    except KeyboardInterrupt:
        print("interrupted; resume with the same command and --resume", file=sys.stderr)
        return INTERRUPTED


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argument_parser()
    arguments = parser.parse_intermixed_args(argv)
    if arguments.json and not arguments.dry_run:
        parser.error("--json needs --dry-run: a sweep prints its progress, and `transrec report --json` its results")
    return arguments


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="transrec sweep", description=__doc__)
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="YAML file, or the name of a shipped one, such as sweeps/quick",
    )
    parser.add_argument(
        "--address", help="Ray cluster: `auto` (running on this machine) or `ray://HOST:10001`; default: start one"
    )
    parser.add_argument("--resume", action="store_true", help="resume a sweep; its grid may have changed")
    parser.add_argument("--dry-run", action="store_true", help="show the trials and their estimated cost, and stop")
    parser.add_argument("--print-config", action="store_true", help="show the resolved sweep and stop")
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="values of the sweep file to override")
    return parser


if __name__ == "__main__":
    sys.exit(main())
