"""Write the report of a sweep, or compare runs: `python launch/report.py SWEEP`, `… RUN RUN`."""

import sys

from transrec.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
