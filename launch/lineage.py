"""Show which users and items a run trained on: `python launch/lineage.py --run R --step N`."""

import sys

from transrec.commands.lineage import main

if __name__ == "__main__":
    sys.exit(main())
