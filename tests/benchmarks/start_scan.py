"""Measures the start-up pass over the users, at two sizes a factor of ten apart.

    python tests/benchmarks/start_scan.py --folder /tmp/start_scan

Builds two synthetic sets unless they exist: 20,000 users × 10,000 items and 200,000 users × 100,000 items,
20 interactions a user. Prints for each, and for each split: CPU time per interaction; the blocks that one of
four ranks reads, and how many times; the pages of memory that it touches per interaction. If the cost is linear in the
interactions, all numbers per interaction are the same at both sizes.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.examples import DataConfig
from transrec.data.peers import Alone
from transrec.data.shards.user_shards import UserBlock, UserShards

SIZES = ((20_000, 10_000), (200_000, 100_000))  # users, items
EACH, RANKS, MAX_LENGTH = 20, 4, 20


class OneOfFour(Alone):
    """A rank whose peers found nothing, for counting what one rank does."""

    size = RANKS

    def total(self, what: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers


class Counted:
    """Counts the blocks that are read."""

    def __init__(self) -> None:
        self.blocks, self._read = 0, UserShards.read

    def __call__(self, shards: UserShards, number: int) -> UserBlock:
        self.blocks += 1
        return self._read(shards, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the shards")
    folder = parser.parse_args().folder
    counted = Counted()
    UserShards.read = lambda shards, number: counted(shards, number)  # type: ignore[method-assign]
    for users, items in SIZES:
        shards = folder / f"{users}x{items}"
        if not shards.exists():
            build(SyntheticSource(users, items, EACH * users), "synthetic", shards)
        DataConfig(path=shards).scan(MAX_LENGTH)  # the first pass of a process costs more
        for split in ("leave_one_out", "temporal"):
            config = DataConfig(path=shards, split={"name": split})  # type: ignore[arg-type]
            for name, peers in (("one rank", Alone()), (f"a rank of {RANKS}", OneOfFour())):
                counted.blocks = 0
                pages, began = _pages(), time.process_time()
                examples = config.scan(MAX_LENGTH, peers)
                seconds, touched = time.process_time() - began, _pages() - pages
                blocks, interactions = len(examples.counts), examples.folder.index.counts.interactions
                print(
                    f"{users:>9,} users × {items:>7,} items, {split:<13} {name:<11}: "
                    f"{seconds / interactions * 1e9:6.1f} ns and {touched / interactions:6.3f} pages an interaction, "
                    f"{counted.blocks:,} reads of {blocks:,} blocks"
                )


def _pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main()
