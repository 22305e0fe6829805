"""Estimate the cost of a larger run: `python launch/plan.py --config C --users N --items N [a.b=value …]`."""

import sys

from transrec.commands.plan import main

if __name__ == "__main__":
    sys.exit(main())
