"""Fill the node's cache for a run: `deepspeed launch/fill.py --config C [a.b=value …]`, or `transrec fill …`.

All processes together compute tokenised texts, decoded images, evidence and the states of frozen layers, as they would
at the start of training. A killed process loses only the part that it was working on: run the same command again to
continue. Run the command on each node, unless the nodes share the cache folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import command
from transrec.config import find, load
from transrec.distributed import world as distributed
from transrec.experiment import Experiment
from transrec.runs.build import build


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    experiment = load(Experiment, find(arguments.config), arguments.overrides)
    world = distributed.start()
    try:
        store = build(experiment, world).store
    except BaseException:
        distributed.stop(world, failed=True)
        raise
    distributed.stop(world)
    if world.local_rank == 0:
        for modality in experiment.model.content():
            print(_describe(modality, experiment.data.cache.expanduser() / store.of(modality).key))
    return 0


def _describe(modality: str, folder: Path) -> str:
    if not folder.exists():
        return f"{modality}: nothing to cache, because it is read from the shards"
    return f"{modality}: {folder}, {sum(path.stat().st_size for path in folder.iterdir()):,} bytes"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_intermixed_args(argv)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec fill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="YAML file, or the name of a shipped one, such as quickstart",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="configuration values to override")
    return parser


if __name__ == "__main__":
    sys.exit(main())
