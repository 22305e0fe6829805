"""Time and peak memory of counting co-occurrences: `python tests/benchmarks/evidence_lists.py [ITEMS] [INTERACTIONS]`.

Users of twenty interactions on average, in blocks of 2,048 as shards have them; items by a power law.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transrec.evidence.co_occurrence import CoOccurrenceConfig

USERS_IN_A_BLOCK = 2048


class Synthetic:
    """Sequences that are drawn anew, alike, whenever they are read."""

    def __init__(self, items: int, interactions: int) -> None:
        self.catalogue_size, self._interactions = items, interactions

    def sequences(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        generator, left = np.random.default_rng(0), self._interactions
        while left > 0:
            lengths = generator.geometric(1 / 20, USERS_IN_A_BLOCK)
            ranks = generator.power(0.5, int(lengths.sum())) * self.catalogue_size
            left -= len(ranks)
            yield ranks.astype(np.int64) + 1, lengths


def main() -> None:
    items, interactions = (int(argument) for argument in (*sys.argv[1:], "1000000", "10000000")[:2])
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        CoOccurrenceConfig().fill(Path(folder), Synthetic(items, interactions))
        seconds = time.monotonic() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{items:,} items, {interactions:,} interactions: {seconds:.0f} s, peak {peak:.2f} GiB, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
