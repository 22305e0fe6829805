"""Meetings of all ranks: whoever comes early polls, outside any collective, for as long as the others live.

A collective gives up after ten minutes on CPUs, and the first tokenisation of a catalogue may take hours. Designs
considered: a longer time-out of the process group (however long, it is a guess; groups that other libraries make keep
theirs; a rank that died would be waited for as long), polling for the file that another rank writes (says nothing of
ranks on other nodes, so the next collective waits instead), and counting arrivals in the store of the process group.
Taken: the last. After a meeting every rank is within a poll of the next collective. Who has died is the watchdog's to
find out; it counts no meeting as a collective, so nobody is blamed for work that the others wait for here.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from torch.distributed import DistNetworkError

from transrec.errors import TransRecError

SILENT_SECONDS = 5.0  # before those who are awaited are named; then each time after twice as long
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.01, 0.5
NAMED = 4  # ranks, at most


class Store(Protocol):
    """The operations of `torch.distributed.Store` that meetings use; without an answer of rank 0 they raise."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...


class MeetingError(TransRecError, RuntimeError):
    """A meeting that not all ranks can come to."""


class Meetings:
    """The meetings of `size` ranks, in the order in which every one of them comes to them."""

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank, self.size = rank, size
        self._store, self._held = store, 0
        self._store.set(f"process/{rank}", f"process {os.getpid()} on {socket.gethostname()}")

    def meet(self, what: str) -> None:
        """Return once every rank has come; `what`, a verb and its object, is what those who are late still do.

        Raises:
            MeetingError: rank 0 has ended.
        """
        self._held += 1
        key, silent = f"meeting/{self._held}", SILENT_SECONDS
        try:
            self._store.set(f"{key}/{self.rank}", "")
            self._store.add(f"{key}/here", 1)
            for waited in self._until(f"{key}/here"):
                if waited > silent:
                    silent = 2 * waited
                    self._name_the_late(key, what)
            self._store.add(f"{key}/seen", 1)
            if self.rank == 0:  # the store ends with it, so it leaves last
                for _ in self._until(f"{key}/seen"):
                    pass
        except DistNetworkError:
            raise MeetingError(f"rank 0 has ended while this rank waited for it to {what}: see its message") from None

    def _until(self, counter: str) -> Iterator[float]:
        """Seconds that have been waited so far, at each poll until every rank has added to the counter."""
        start, pause = time.monotonic(), FIRST_POLL_SECONDS
        while self._store.add(counter, 0) < self.size:
            yield time.monotonic() - start
            time.sleep(pause)
            pause = min(1.5 * pause, LAST_POLL_SECONDS)

    def _name_the_late(self, key: str, what: str) -> None:
        """A line on stderr, from the first of the ranks that wait."""
        there = [self._store.check([f"{key}/{rank}"]) for rank in range(self.size)]
        late = [rank for rank in range(self.size) if not there[rank]]
        if late and there.index(True) == self.rank:
            names = [self._describe(rank) for rank in late[:NAMED]]
            more = f" and {len(late) - NAMED} more" if len(late) > NAMED else ""
            print(f"transrec: waiting for {', '.join(names)}{more} to {what}", file=sys.stderr, flush=True)

    def _describe(self, rank: int) -> str:
        process = f"process/{rank}"
        known = self._store.check([process])  # it may not even have come so far
        return f"rank {rank} ({self._store.get(process).decode()})" if known else f"rank {rank}"
