"""Time of making the batches of a sampled softmax: `python tests/benchmarks/sampled_candidates.py [ITEMS ...]`.

A batch has 64 windows of 21 items that follow a power law, and a fifth of the catalogue as candidates. The time is
processor time of one core. The last column is a hash of the candidates and their rows, for comparing versions.
"""

import hashlib
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import ItemContent, Sampling, Targets
from transrec.data.examples.sequence_collation import SequenceCollation
from transrec.data.examples.windows import Window

WINDOWS, LENGTH, SHARE, STEPS = 64, 20, 0.2, 5


@dataclass(frozen=True)
class Catalogue:
    """Examples over `num_items` items."""

    num_items: int
    max_length: int = LENGTH

    @property
    def targets(self) -> Targets:
        return Targets(self.num_items)

    @property
    def popularity(self) -> NDArray[np.int64]:
        return np.concatenate([[0], (10 * self.num_items / np.arange(1, self.num_items + 1)).astype(np.int64)])

    @property
    def sampled(self) -> NDArray[np.int64]:
        return np.arange(1, self.num_items + 1)

    negatives = sampled


class NoContent:
    """The store of a model of ids."""

    def for_training(self, items: NDArray[np.int64], seed: int, step: int) -> ItemContent:
        return ItemContent(torch.from_numpy(items), {})


def main() -> None:
    for items in map(int, sys.argv[1:] or ("10000", "100000", "1000000")):
        store: Any = NoContent()
        collate = SequenceCollation(Catalogue(items), store, Sampling(candidates=SHARE), seed=0)
        drawn = np.random.default_rng(0).power(0.5, (WINDOWS, LENGTH + 1))
        histories = (1 + drawn * (items - 1)).astype(np.int32)
        windows = [Window(str(user), 0, history, LENGTH, history) for user, history in enumerate(histories)]
        digest, start = hashlib.sha256(), time.process_time()
        for step in range(STEPS):
            batch = collate(step, 0, windows)
            for tensor in (batch.content.items, batch.candidates, batch.targets, batch.inputs):
                assert tensor is not None
                digest.update(tensor.numpy().tobytes())
        milliseconds = 1000 * (time.process_time() - start) / STEPS
        print(f"{items:>10,} items {milliseconds:8.1f} ms a batch  {digest.hexdigest()[:12]}")


if __name__ == "__main__":
    main()
