"""Export the trained backbones of a run: `python launch/export.py --run R --output DIR`."""

import sys

from transrec.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
