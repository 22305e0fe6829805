"""Write the report of a sweep or of a finished run, or compare finished runs.

transrec report SWEEP            SWEEP is the folder of a sweep (`storage_path/name`), which may still be running
transrec report RUN              a run folder: its test by group, and the calibration of its probabilities
transrec report RUN RUN [...]    run folders, tested on the same users; each is compared with the first

A report is written to the subfolder `report/`: report.md with its figures, index.html and, for a sweep, results.csv.
A comparison of runs is only printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, positive, print_json
from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.report.assemble import write_report
from transrec.sweeps.report.one_run import is_run, report_run
from transrec.sweeps.report.page import PAGE_FILE, REPORT_FOLDER
from transrec.sweeps.side_by_side import compare_runs
from transrec.terminal import console


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    folder, *others = arguments.folders
    if others:
        return show_runs(arguments)
    if is_run(folder):
        show_page(report_run(folder), arguments.json)
        return 0
    draft = write_report(folder, arguments.margin, arguments.delta)
    page = folder / REPORT_FOLDER / PAGE_FILE
    if arguments.json:
        print_json({"found": draft.findings.found, "not_established": draft.findings.unsaid, "report": str(page)})
        return 0
    for title, lines in (("Found", draft.findings.found), ("Not established", draft.findings.unsaid)):
        print(title, *(f"  {line}" for line in lines), sep="\n")
    show_page(page)
    return 0


def show_page(page: Path, as_json: bool = False) -> None:
    """Print the path of a report."""
    if as_json:
        print_json({"report": str(page)})
    else:
        print(f"Report     {page}")


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
        "folders", type=Path, nargs="+", metavar="FOLDER", help="folder of a sweep, or one or more runs"
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
