"""Write the report of a sweep: `python launch/report.py SWEEP`."""

import sys

from transrec.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
