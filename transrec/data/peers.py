"""The other processes of a run, which share work that is done once and agree on which samples are bad."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Done = TypeVar("Done")
Ints = NDArray[np.int64]


class Peers(Protocol):
    """Ranks wait for each other outside collectives, which would time out; every rank must call these methods."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    @property
    def local_rank(self) -> int: ...

    def together(self, what: str, work: Callable[[], Done]) -> Done:
        """The result of `work`, once all ranks have theirs; they may take as long as they like to `what` (a verb and
        its object)."""
        ...

    def union(self, values: Iterable[int]) -> set[int]:
        """The union of the ranks' non-negative integers, however long each rank takes to find its own."""
        ...

    def total(self, what: str, numbers: Ints) -> Ints:
        """The sum over ranks of arrays of equal shape, however long each rank takes to `what` (a verb and its
        object)."""
        ...


class Alone:
    """The only process of a run."""

    rank, size, local_rank = 0, 1, 0

    def together(self, what: str, work: Callable[[], Done]) -> Done:
        return work()

    def union(self, values: Iterable[int]) -> set[int]:
        return set(values)

    def total(self, what: str, numbers: Ints) -> Ints:
        return numbers
