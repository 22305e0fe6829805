"""Write the report of a sweep, or compare finished runs.

transrec report SWEEP            SWEEP is the folder of a sweep (`storage_path/name`), which may still be running
transrec report RUN RUN [...]    run folders, tested on the same users; each is compared with the first

The report of a sweep is written to its subfolder `report/`: report.md with its figures, index.html and results.csv. A
comparison of runs is only printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, positive, print_json
from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.report.assemble import REPORT_FOLDER, write_report
from transrec.sweeps.side_by_side import check_no_run, compare_runs
from transrec.terminal import console


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    folder, *others = arguments.folders
    if others:
        return show_runs(arguments)
    check_no_run(folder)
    draft = write_report(folder, arguments.margin, arguments.delta)
    page = folder / REPORT_FOLDER / "index.html"
    if arguments.json:
        print_json({"found": draft.findings.found, "not_established": draft.findings.unsaid, "report": str(page)})
        return 0
    for title, lines in (("Found", draft.findings.found), ("Not established", draft.findings.unsaid)):
        print(title, *(f"  {line}" for line in lines), sep="\n")
    print(f"Report     {page}")
    return 0


def show_runs(arguments: argparse.Namespace) -> int:
    """Print the comparison of runs and return the exit code."""
    found = compare_runs(arguments.folders, arguments.margin)
    if arguments.json:
        print_json(found.as_json())
        return 0
    for view in found.tables():
        console().print(view)
    print(*found.remarks(), sep="\n")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="folder of a sweep, or two or more runs"
    )
    above_0 = positive(float)
    parser.add_argument(
        "--margin", type=above_0, default=MARGIN, help="equivalence margin relative to the baseline: %(default)s"
    )
    parser.add_argument(
        "--delta", type=above_0, default=DELTA, help="delta of the Huber loss of a sweep's fits: %(default)s"
    )
    add_json(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
