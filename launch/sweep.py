"""Run a sweep on Ray: `python launch/sweep.py --config configs/sweeps/S.yaml`."""

import sys

from transrec.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
