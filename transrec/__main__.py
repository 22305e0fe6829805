"""`python -m transrec COMMAND …`, the same as `transrec COMMAND …`."""

import sys

from transrec.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
