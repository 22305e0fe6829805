"""The other processes of a run, which share work that is done once and agree on which samples are bad."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

Done = TypeVar("Done")


class Peers(Protocol):
    """Waiting for another process happens outside collectives, which would time out; every rank must call."""

    @property
    def local_rank(self) -> int: ...

    def in_turn(self, what: str, work: Callable[[], Done]) -> Done:
        """The result of `work`, which the first process of each node does before the others."""
        ...

    def union(self, values: Iterable[int]) -> set[int]:
        """The union of the ranks' non-negative integers, however long each rank takes to find its own."""
        ...
