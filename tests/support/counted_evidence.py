"""Co-occurrences in small parts, and a process that takes part in counting them.

    python counted_evidence.py FOLDER SECONDS

Each part takes so many seconds. Each process appends a line for each part to `log` beside the folder.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from evidence_tables import GivenSequences, made

from transrec.evidence import pair_files
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.neighbours import NeighbourWork

ITEMS, BLOCKS = 60, 8
CONFIG = CoOccurrenceConfig(neighbours=5)


def blocks() -> GivenSequences:
    """Blocks of nine users."""
    generator = np.random.default_rng(0)
    users = [[generator.integers(1, ITEMS + 1, generator.integers(2, 9)) for _ in range(9)] for _ in range(BLOCKS)]
    return GivenSequences([(np.concatenate(some), np.array([len(user) for user in some])) for some in users], ITEMS)


def _logged(fill: Callable[..., None], log: Path, seconds: float) -> Callable[..., None]:
    def before(self: Any, part: int, *rest: Any) -> None:
        time.sleep(seconds)
        fill(self, part, *rest)
        with log.open("a") as file:
            file.write(f"{os.getpid()} {self.name}: {part}\n")

    return before


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    pair_files._INTERACTIONS_OF_A_PART, pair_files._INTERACTIONS_PER_ITEM = 1, 0
    pair_files._PAIRS_AT_ONCE = 2000
    for work in (pair_files.PairWriting, NeighbourWork):
        work.fill = _logged(work.fill, folder.parent / "log", seconds)  # type: ignore[attr-defined]
    made(CONFIG, blocks(), folder)


if __name__ == "__main__":
    main()
