"""Meetings of all ranks: ranks that arrive early poll, outside any collective, for as long as the others are alive.

A collective times out after ten minutes on CPUs, but the first tokenisation of a catalogue may take hours. Designs
considered. A longer timeout of the process group: any value is a guess, groups created by other libraries keep theirs,
and a dead rank would block the others for as long. Polling for a file that another rank writes: this does not cover
ranks on other nodes, so the next collective waits instead. Counting arrivals in the store of the process group. Chosen:
the last. After a meeting, all ranks reach the next collective within one polling interval. Detecting dead ranks is left
to the watchdog, which does not count meetings as collectives, so it does not report a rank that is awaited here.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from torch.distributed import DistNetworkError

from transrec.errors import TransRecError

SILENT_SECONDS = 5.0  # before the late ranks are named; doubled each time
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.01, 0.5
NAMED = 4  # maximum number of ranks named


class Store(Protocol):
    """The operations of `torch.distributed.Store` that meetings use; they raise if rank 0 does not answer."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...


class MeetingError(TransRecError, RuntimeError):
    """A meeting that not all ranks can reach."""


class Meetings:
    """The meetings of `size` ranks; every rank must call them in the same order."""

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank, self.size = rank, size
        self._store, self._held = store, 0
        self._store.set(f"process/{rank}", f"process {os.getpid()} on {socket.gethostname()}")

    def meet(self, what: str) -> None:
        """Return once every rank has arrived; `what` (a verb and its object) describes the work of late ranks.

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
            if self.rank == 0:  # it hosts the store, so it leaves last
                for _ in self._until(f"{key}/seen"):
                    pass
        except DistNetworkError:
            raise MeetingError(
                f"rank 0 has ended while this rank waited for it to {what}: see the message of rank 0"
            ) from None

    def _until(self, counter: str) -> Iterator[float]:
        """Yield the seconds waited so far at each poll, until every rank has incremented the counter."""
        start, pause = time.monotonic(), FIRST_POLL_SECONDS
        while self._store.add(counter, 0) < self.size:
            yield time.monotonic() - start
            time.sleep(pause)
            pause = min(1.5 * pause, LAST_POLL_SECONDS)

    def _name_the_late(self, key: str, what: str) -> None:
        """Print the late ranks on stderr, only from the lowest waiting rank."""
        there = [self._store.check([f"{key}/{rank}"]) for rank in range(self.size)]
        late = [rank for rank in range(self.size) if not there[rank]]
        if late and there.index(True) == self.rank:
            names = [self._describe(rank) for rank in late[:NAMED]]
            more = f" and {len(late) - NAMED} more" if len(late) > NAMED else ""
            print(f"transrec: waiting for {', '.join(names)}{more} to {what}", file=sys.stderr, flush=True)

    def _describe(self, rank: int) -> str:
        process = f"process/{rank}"
        known = self._store.check([process])  # it may not have registered yet
        return f"rank {rank} ({self._store.get(process).decode()})" if known else f"rank {rank}"
