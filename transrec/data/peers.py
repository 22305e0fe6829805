"""The other processes of a run, as far as data need them: to do once what serves all, and to agree on what is bad."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

Done = TypeVar("Done")


class Peers(Protocol):
    """Nobody who waits here for another's work waits inside a collective, which would give up; every rank must call."""

    @property
    def local_rank(self) -> int: ...

    def in_turn(self, what: str, work: Callable[[], Done]) -> Done:
        """What `work` returns; the first process of each node does it before the others."""
        ...

    def union(self, values: Iterable[int]) -> set[int]:
        """All the integers from 0 on that any rank gives, however long the ranks took to find theirs."""
        ...
