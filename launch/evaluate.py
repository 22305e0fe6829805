"""Evaluate runs: `python launch/evaluate.py --run R`."""

import sys

from transrec.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
