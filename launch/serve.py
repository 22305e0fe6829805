"""Serve recommendations over HTTP: `python launch/serve.py --run R`."""

import sys

from transrec.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
