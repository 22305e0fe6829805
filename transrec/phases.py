"""The seconds that each phase of a run takes, and the work done in it.

Seconds are those of the clock, and those of the processor in all threads of this process, which hardly depend on what
else the machine does. A second belongs to the innermost phase that is open, so that the seconds of all phases add up to
those of the run.

Designs considered. An object handed down to whatever takes time: a parameter of the builder, the item store, the
evaluator, the trainer and all that they call, which only a report reads. A profiler: it knows functions, not what they
worked on. Taken: spans, as in tracing. Code that takes time opens a phase and counts what it did; that goes to the
recording of the process, and nowhere if there is none.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Recorded = dict[str, dict[str, float]]  # name -> its seconds, the times it was entered, its amounts of work

_RECORDING: ContextVar["_Recording | None"] = ContextVar("phases", default=None)


class _Recording:
    def __init__(self) -> None:
        self.done: Recorded = {}
        self._open: list[str] = []
        self._since = self._busy_since = 0.0

    def enter(self, name: str) -> None:
        self._turn()
        self._open.append(name)
        self.of(name)["times"] += 1

    def leave(self) -> None:
        self._turn()
        self._open.pop()

    def count(self, amounts: dict[str, float]) -> None:
        if self._open:
            entry = self.of(self._open[-1])
            for name, amount in amounts.items():
                entry[name] = entry.get(name, 0) + amount

    def of(self, name: str) -> dict[str, float]:
        return self.done.setdefault(name, {"seconds": 0.0, "processor_seconds": 0.0, "times": 0})

    def is_open(self, name: str) -> bool:
        return name in self._open

    def _turn(self) -> None:
        """Give the time since the last turn to the phase that is open."""
        _wait_for_device()
        now, busy = time.monotonic(), time.process_time()
        if self._open:
            entry = self.of(self._open[-1])
            entry["seconds"] += now - self._since
            entry["processor_seconds"] += busy - self._busy_since
        self._since, self._busy_since = now, busy


def _wait_for_device() -> None:
    """Wait for what the device still does for the phase that is over; PyTorch is not imported only for that."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def recording() -> Iterator[None]:
    """Record the phases entered inside; `recorded` returns them."""
    token = _RECORDING.set(_Recording())
    try:
        yield
    finally:
        _RECORDING.reset(token)


def recorded() -> Recorded:
    """The phases that are over, by name, of the recording that is open; none without one."""
    found = _RECORDING.get()
    if found is None:
        return {}
    over = {name: entry for name, entry in found.done.items() if not found.is_open(name)}
    return {name: {key: round(value, 4) for key, value in entry.items()} for name, entry in over.items()}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Time spent inside belongs to the phase `name`, but for that of phases inside."""
    found = _RECORDING.get()
    if found is None:
        yield
        return
    found.enter(name)
    try:
        yield
    finally:
        found.leave()


def did(**amounts: float) -> None:
    """Add amounts of work, by name, to the innermost phase that is open."""
    found = _RECORDING.get()
    if found is not None:
        found.count(amounts)
