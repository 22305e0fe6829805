"""Prevents endless waiting: reports a rank that hangs, and ends a run whose launcher was killed.

A rank that is stopped, swapped out or disconnected blocks the others in a collective until its timeout, ten minutes on
CPUs, and in a meeting (`meetings`) for ever. Designs considered. A timeout for every collective: it cannot distinguish
a hung rank from a slow one (a long validation). Heartbeats through files in the run folder: network file systems show
them late. Heartbeats through the store of the process group, from a thread in every rank that also reads those of the
others. Chosen: the last. A rank without heartbeat ends the run; one that is alive but keeps the others waiting is
reported and left to finish.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from torch.distributed import DistNetworkError

BEAT_SECONDS = 3.0
DEAD_SECONDS = 30.0  # without a heartbeat before a rank counts as dead
WAITING_SECONDS = 45.0  # that a living rank keeps the others waiting before it is reported
GRACE_SECONDS = 30.0  # to save and exit after the launcher died


class Store(Protocol):
    """The operations of `torch.distributed.Store` that the watchdog uses; they raise if rank 0 does not answer."""

    def set(self, key: str, value: str, /) -> None: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...


@dataclass(frozen=True)
class Beat:
    """The heartbeat of a rank; `arrivals` counts the collectives that it has reached."""

    number: int
    arrivals: int
    host: str
    pid: int

    def encode(self) -> str:
        return f"{self.number} {self.arrivals} {self.host} {self.pid}"

    @classmethod
    def decode(cls, text: bytes) -> "Beat":
        number, arrivals, host, pid = text.decode().split()
        return cls(int(number), int(arrivals), host, int(pid))


class Watch:
    """Evaluates the heartbeats of all ranks, without threads or clocks; `now` is in seconds on any clock."""

    def __init__(self) -> None:
        self._beats: list[Beat] = []
        self._beat_at: list[float] = []
        self._arrived_at: list[float] = []
        self._named_at = -WAITING_SECONDS

    def hear(self, beats: list[Beat], now: float) -> None:
        if not self._beats:
            self._beats, self._beat_at, self._arrived_at = beats, [now] * len(beats), [now] * len(beats)
        for rank, (before, beat) in enumerate(zip(self._beats, beats, strict=True)):
            if beat.number != before.number:
                self._beat_at[rank] = now
            if beat.arrivals != before.arrivals:
                self._arrived_at[rank] = now
        self._beats = beats

    def dead(self, now: float) -> list[int]:
        """Ranks without a heartbeat for more than `DEAD_SECONDS`."""
        return [rank for rank, at in enumerate(self._beat_at) if now - at > DEAD_SECONDS]

    def awaited(self, now: float) -> list[int]:
        """Ranks that the others have been waiting for; empty until the next report is due."""
        furthest = max((beat.arrivals for beat in self._beats), default=0)
        behind = [rank for rank, beat in enumerate(self._beats) if beat.arrivals < furthest]
        longest = max((now - at for at in self._arrived_at), default=0.0)
        still = all(now - at > WAITING_SECONDS for at in self._arrived_at)
        if not behind or not still or now - self._named_at < longest / 2:
            return []
        self._named_at = now
        return behind

    def describe(self, rank: int) -> str:
        beat = self._beats[rank]
        return f"rank {rank} (process {beat.pid} on {beat.host})"

    def sibling(self, rank: int) -> int | None:
        """Process id of a rank that was started by the same launcher as this process; otherwise None."""
        beat = self._beats[rank]
        same = beat.host == socket.gethostname() and parent_of(beat.pid) == os.getppid()
        return beat.pid if same else None


class Watchdog:
    """Two threads: one exchanges heartbeats with the store, which may block for ever; the other evaluates them.

    Args:
        store: shared by all ranks and hosted by rank 0; None if there is only one rank.
    """

    def __init__(self, rank: int, size: int, store: Store | None) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._watch = Watch()
        self._arrivals = 0
        self._heard: list[Beat] = []
        self._heard_at = _now()
        self._stopping = threading.Event()
        self._say_beat(0)

    def start(self) -> None:
        """Start the threads; the watchdogs of all ranks must exist by now."""
        self._listen()
        threads = [self._judge] if self._store is None else [self._talk, self._judge]
        self._threads = [threading.Thread(target=run, name="watchdog", daemon=True) for run in threads]
        for thread in self._threads:
            thread.start()

    def arrive(self) -> None:
        """Record that this rank has reached a collective."""
        self._arrivals += 1

    def stop(self) -> None:
        """Stop the threads and wait until they no longer use the store."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(DEAD_SECONDS)

    def _talk(self) -> None:
        number = 0
        try:
            while not self._stopping.wait(BEAT_SECONDS):
                number += 1
                self._say_beat(number)
                self._listen()
        except DistNetworkError:  # rank 0 has finished or died: if it died, the launcher ends the run
            self._heard_at = math.inf

    def _say_beat(self, number: int) -> None:
        if self._store is not None:
            beat = Beat(number, self._arrivals, socket.gethostname(), os.getpid())
            self._store.set(f"beat/{self.rank}", beat.encode())

    def _listen(self) -> None:
        if self._store is not None:
            beats = self._store.multi_get([f"beat/{rank}" for rank in range(self.size)])
            self._heard, self._heard_at = [Beat.decode(beat) for beat in beats], _now()

    def _judge(self) -> None:
        launcher, judged_at = Launcher.of_this_process(), _now()
        while not self._stopping.wait(BEAT_SECONDS):
            if launcher is not None and launcher.is_gone():
                self._leave()
            if _now() - judged_at > DEAD_SECONDS / 2:  # this process or the whole run was suspended: start over
                self._watch, self._heard_at = Watch(), _now()
            judged_at = _now()
            self._watch.hear(self._heard, judged_at)
            silent = self.size > 1 and judged_at - self._heard_at > DEAD_SECONDS
            dead = [0] if silent else self._watch.dead(judged_at)  # rank 0 hosts the store
            if dead and self.rank not in dead:
                self._end(dead)
            awaited = self._watch.awaited(judged_at)
            if awaited and self.rank == 0:
                names = ", ".join(self._watch.describe(rank) for rank in awaited)
                _say(f"the other ranks have been waiting for {names} for over {WAITING_SECONDS:.0f} s")

    def _end(self, dead: list[int]) -> NoReturn:
        """End this process; the lowest living rank reports why and kills stopped ranks, which no launcher can."""
        if self.rank == min(set(range(self.size)) - set(dead)):
            for rank in dead:
                _say(
                    f"{self._watch.describe(rank)} has not responded for {DEAD_SECONDS:.0f} s: the run ends. "
                    "Check that machine, then start the same command again: it resumes from the last checkpoint"
                )
                if (process := self._watch.sibling(rank)) is not None:
                    os.kill(process, signal.SIGKILL)
        os._exit(1)

    def _leave(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # the trainer saves
        if not self._stopping.wait(GRACE_SECONDS):
            _say("the launcher was killed: the run ends")
            os._exit(1)


@dataclass(frozen=True)
class Launcher:
    """DeepSpeed's per-node launcher, and the process that started it (the `deepspeed` command, or a remote shell)."""

    pid: int
    started_by: int

    @classmethod
    def of_this_process(cls) -> "Launcher | None":
        """None unless DeepSpeed started this process: a standalone process may outlive its shell."""
        pid = os.getppid()
        started_by = parent_of(pid)
        if started_by is None or b"deepspeed.launcher.launch" not in _command_line(pid):
            return None
        return cls(pid, started_by)

    def is_gone(self) -> bool:
        return os.getppid() != self.pid or parent_of(self.pid) != self.started_by


def parent_of(pid: int) -> int | None:
    """The id of a process's parent; None if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])  # the process name before it may contain spaces and brackets


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _now() -> float:
    return time.monotonic()


def _say(text: str) -> None:
    print(f"transrec: {text}", file=sys.stderr, flush=True)
