"""Evaluate runs.

transrec evaluate --run R [--split valid|test] [--data OTHER_SHARDS] [--metrics NAME …]
transrec evaluate [--run SOURCE] --adapter A [B …]     each on its own data, with one shared base
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, print_json
from transrec.distributed import world as distributed
from transrec.evaluation.groups import group_table
from transrec.evaluation.report import table
from transrec.runs.channels import Channels
from transrec.runs.evaluate import check_own_tests, data_of, evaluate, save_tests, tables
from transrec.terminal import console, read_by_program


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    world = distributed.join()
    channels = Channels(arguments.run, arguments.adapter, world.device)
    places = [data_of(channel, arguments.data) for channel in channels.members]  # raises before the work begins
    if arguments.save_users:
        check_own_tests(channels, places)
    pairs = zip(channels.members, places, strict=True)
    results = [
        evaluate(channels, channel, config, arguments.split, world, arguments.metrics) for channel, config in pairs
    ]
    shown = tables(results, world)
    if arguments.save_users and world.is_main:
        save_tests(results)
    distributed.stop(world)
    if world.is_main and arguments.json:
        print_json({"results": [result.as_json() for result in results]})
    elif world.is_main:
        for sample, sections in shown:
            console().print(table(*(section.estimates for section in sections), of=sample))
            for section in sections:
                for grouping, models in section.groupings.items():
                    console().print(group_table(grouping, models, sample))
        for result in results if read_by_program() else ():
            print_json(result.as_json())
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    if arguments.save_users and arguments.split != "test":
        parser.error("--save-users saves the results of the test: leave out --split valid")
    if arguments.save_users and arguments.metrics:
        parser.error("--save-users saves what the metrics of the run's configuration read: leave out --metrics")
    return arguments


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the base run of the adapters")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--data", metavar="DIR|URL", help="shards other than those a run was trained on")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="metrics to compute: those of the run's configuration"
    )
    parser.add_argument(
        "--save-users", action="store_true", help="write test_users.parquet to the run folder, by which reports compare"
    )
    add_json(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by the deepspeed launcher
    return parser


if __name__ == "__main__":
    sys.exit(main())
