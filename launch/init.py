"""Create a small starter project: `python launch/init.py DIR`."""

import sys

from transrec.commands.init import main

if __name__ == "__main__":
    sys.exit(main())
