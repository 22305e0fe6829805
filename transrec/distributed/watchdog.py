"""Nobody waits for ever: names a rank that hangs, and ends a run whose launcher was killed.

A rank that is stopped, swapped out or cut off leaves the others in a collective until its time-out, ten minutes on
CPUs, and in a meeting (`meetings`) for ever. Designs considered: a time-out on every collective, which cannot tell a
hung rank from a slow one (a long validation), and heartbeats over files in the run folder, which network file systems
show late.
Taken: a thread in every rank that beats in the store of the process group and listens to the others. A rank without
heartbeat ends the run; one that lives but keeps the others waiting is named and left to finish.
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
DEAD_SECONDS = 30.0  # without a heartbeat
WAITING_SECONDS = 45.0  # that a living rank keeps the others waiting before it is named
GRACE_SECONDS = 30.0  # to save and leave after the launcher died


class Store(Protocol):
    """The operations of `torch.distributed.Store` that the watchdog uses; without an answer of rank 0 they raise."""

    def set(self, key: str, value: str, /) -> None: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself; `arrivals` counts the meetings of all ranks (collectives) it has come to."""

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
    """Judges the heartbeats of all ranks; knows nothing of threads and clocks, `now` is seconds on any clock."""

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
        """Ranks that have not beaten for too long."""
        return [rank for rank, at in enumerate(self._beat_at) if now - at > DEAD_SECONDS]

    def awaited(self, now: float) -> list[int]:
        """Living ranks that others have been waiting for; said once in a while."""
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
        """The process of a rank that this one's launcher started too."""
        beat = self._beats[rank]
        same = beat.host == socket.gethostname() and parent_of(beat.pid) == os.getppid()
        return beat.pid if same else None


class Watchdog:
    """Two threads: one talks to the store, which may block for ever, one judges what it heard.

    Args:
        store: shared by all ranks and held by rank 0; None where there is one rank.
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
        """The watchdogs of all ranks must have been made by now."""
        self._listen()
        threads = [self._judge] if self._store is None else [self._talk, self._judge]
        self._threads = [threading.Thread(target=run, name="watchdog", daemon=True) for run in threads]
        for thread in self._threads:
            thread.start()

    def arrive(self) -> None:
        """This rank comes to a meeting of all ranks (a collective)."""
        self._arrivals += 1

    def stop(self) -> None:
        """Returns when the threads use the store no more."""
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
        except DistNetworkError:  # rank 0 is done, or dead: then the launcher ends the run
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
            if _now() - judged_at > DEAD_SECONDS / 2:  # the whole run was suspended, or this process: start afresh
                self._watch, self._heard_at = Watch(), _now()
            judged_at = _now()
            self._watch.hear(self._heard, judged_at)
            silent = self.size > 1 and judged_at - self._heard_at > DEAD_SECONDS
            dead = [0] if silent else self._watch.dead(judged_at)  # the store lies with rank 0
            if dead and self.rank not in dead:
                self._end(dead)
            awaited = self._watch.awaited(judged_at)
            if awaited and self.rank == 0:
                names = ", ".join(self._watch.describe(rank) for rank in awaited)
                _say(f"the other ranks have been waiting for {names} for over {WAITING_SECONDS:.0f} s")

    def _end(self, dead: list[int]) -> NoReturn:
        """End this process; the lowest living rank says why, and kills what no launcher can: a stopped process."""
        if self.rank == min(set(range(self.size)) - set(dead)):
            for rank in dead:
                _say(
                    f"{self._watch.describe(rank)} has not responded for {DEAD_SECONDS:.0f} s: the run ends. "
                    "Look at that machine, then start the same command again: it goes on from the last checkpoint"
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
        """None unless it was DeepSpeed that started this process: a process on its own may outlive its shell."""
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
    return int(status.rpartition(")")[2].split()[1])  # the name before it may hold spaces and brackets


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _now() -> float:
    return time.monotonic()


def _say(text: str) -> None:
    print(f"transrec: {text}", file=sys.stderr, flush=True)
