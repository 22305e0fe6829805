"""Write the report of a sweep: `transrec report SWEEP`, where SWEEP is its folder (`storage_path/name`).

Writes report.md with its figures, index.html and results.csv to its subfolder `report/`. The sweep may still be
running.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, positive, print_json
from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.report.assemble import REPORT_FOLDER, write_report


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = argument_parser().parse_args(argv)
    draft = write_report(arguments.sweep, arguments.margin, arguments.delta)
    page = arguments.sweep / REPORT_FOLDER / "index.html"
    if arguments.json:
        print_json({"found": draft.findings.found, "not_established": draft.findings.unsaid, "report": str(page)})
        return 0
    for title, lines in (("Found", draft.findings.found), ("Not established", draft.findings.unsaid)):
        print(title, *(f"  {line}" for line in lines), sep="\n")
    print(f"Report     {page}")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    above_0 = positive(float)
    parser.add_argument(
        "--margin", type=above_0, default=MARGIN, help="equivalence margin relative to the baseline: %(default)s"
    )
    parser.add_argument("--delta", type=above_0, default=DELTA, help="delta of the Huber loss of the fits: %(default)s")
    add_json(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
