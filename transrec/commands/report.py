"""Report a sweep: `python launch/report.py SWEEP`, SWEEP being its folder (`storage_path/name`).

Writes `report/` there: report.md and its figures, index.html, results.csv. It may be called while a sweep runs.
"""

import argparse
import sys
from pathlib import Path

from transrec.errors import TransRecError
from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.report.assemble import REPORT_FOLDER, write_report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument(
        "--margin", type=positive, default=MARGIN, help="of equivalence, relative to the baseline: %(default)s"
    )
    parser.add_argument("--delta", type=positive, default=DELTA, help="of the fits' Huber loss: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        draft = write_report(arguments.sweep, arguments.margin, arguments.delta)
    except TransRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for title, lines in (("Found", draft.findings.found), ("Not said", draft.findings.unsaid)):
        print(title, *(f"  {line}" for line in lines), sep="\n")
    print(f"Report     {arguments.sweep / REPORT_FOLDER}/index.html")
    return 0


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
