"""Train an experiment: `deepspeed launch/train.py --config C [a.b=value …]`."""

import sys

from transrec.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
