"""Time and peak memory of counting co-occurrences by several processes.

    python tests/benchmarks/evidence_lists.py [--items N] [--interactions N] [--processes N]

Users have twenty interactions on average and are in blocks of 2,048, as in shards; items follow a power law.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transrec.data.content.filled_folder import filled_folder
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.work import Work

USERS_IN_A_BLOCK, INTERACTIONS_OF_A_USER = 2048, 20


class Synthetic:
    """Sequences that are drawn again, identically, at every read."""

    def __init__(self, items: int, interactions: int) -> None:
        self.catalogue_size = items
        blocks = range(max(1, interactions // (USERS_IN_A_BLOCK * INTERACTIONS_OF_A_USER)))
        self.popularity, sizes = np.zeros(items + 1, np.int64), []
        for found, _ in self.sequences(blocks):
            np.add.at(self.popularity, found, 1)
            sizes.append(len(found))
        self.block_sizes = np.array(sizes)

    def sequences(self, blocks: Iterable[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for block in blocks:
            generator = np.random.default_rng(block)
            lengths = generator.geometric(1 / INTERACTIONS_OF_A_USER, USERS_IN_A_BLOCK)
            yield (generator.power(0.5, int(lengths.sum())) * self.catalogue_size).astype(np.int64) + 1, lengths


def take_part(folder: Path, sources: Synthetic, peaks: "SimpleQueue[float]") -> None:
    """Count in this process, and report its peak memory in GiB."""

    def interim(work: Work) -> Path:
        return filled_folder(folder / "pairs", lambda: work)

    filled_folder(folder / "counts", lambda: CoOccurrenceConfig().work(sources, interim))
    peaks.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    sources, context = Synthetic(given.items, given.interactions), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder, peaks = Path(name), context.SimpleQueue()
        start = time.monotonic()
        processes = [context.Process(target=take_part, args=(folder, sources, peaks)) for _ in range(given.processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        seconds = time.monotonic() - start
        table, pairs = (sum(p.stat().st_size for p in (folder / one).iterdir()) for one in ("counts", "pairs"))
    print(
        f"{given.items:,} items, {sources.block_sizes.sum():,} interactions, {given.processes} processes: "
        f"{seconds:.0f} s, peak {max(peaks.get() for _ in processes):.2f} GiB each, "
        f"table {table / 1e9:.2f} GB, pairs {pairs / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
