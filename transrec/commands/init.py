"""Create a small starter project: `transrec init DIR`.

DIR gets a configuration, two small tables in place of your data, and a README with the commands that build, train,
evaluate and recommend.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import command
from transrec.starter import write_project


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    folder: Path = argument_parser().parse_args(argv).folder
    for path in write_project(folder):
        print(path)
    print(f"The next commands are in {folder / 'README.md'}.")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec init", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="new or empty folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
