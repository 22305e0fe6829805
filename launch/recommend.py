"""Recommend items for users, given their histories: `python launch/recommend.py --run R --history ID,ID,…`."""

import sys

from transrec.commands.recommend import main

if __name__ == "__main__":
    sys.exit(main())
