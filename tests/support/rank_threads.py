"""Ranks as threads of one process, which can share work as the ranks of a run do."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from transrec.data.peers import Peers

Done = TypeVar("Done")
PATIENCE_SECONDS = 60.0  # for a rank that does not come


def on_ranks(size: int, work: Callable[[Peers], Done]) -> list[Done]:
    """What `work` returns on each of `size` ranks."""
    gathered: list[Any] = [None] * size
    barrier = Barrier(size)
    ranks = [_Rank(rank, size, gathered, barrier) for rank in range(size)]
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, ranks))


class _Rank:
    """One of the ranks of a node."""

    def __init__(self, rank: int, size: int, gathered: list[Any], barrier: Barrier) -> None:
        self.rank = self.local_rank = rank
        self.size = size
        self._gathered, self._barrier = gathered, barrier

    def union(self, values: Iterable[int]) -> set[int]:
        return {value for of_rank in self._gather(set(values)) for value in of_rank}

    def total(self, what: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.sum(self._gather(numbers), axis=0)

    def together(self, what: str, work: Callable[[], Done]) -> Done:
        return work()

    def _gather(self, value: Any) -> list[Any]:
        self._gathered[self.rank] = value
        self._barrier.wait(PATIENCE_SECONDS)
        found = list(self._gathered)
        self._barrier.wait(PATIENCE_SECONDS)
        return found
