"""Fill the node's cache for a run: `deepspeed launch/fill.py --config C [a.b=value …]`."""

import sys

from transrec.commands.fill import main

if __name__ == "__main__":
    sys.exit(main())
