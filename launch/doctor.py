"""Check what works on this machine: `python launch/doctor.py`."""

import sys

from transrec.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
