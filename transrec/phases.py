"""The time that each phase of a run takes, and the work done in it.

Both wall-clock time and the processor time of all threads of this process are recorded; the latter hardly depends on
what else the machine does. Time counts for the innermost open phase only, so that the times of all phases add up to
that of the run.

Designs considered. An object passed to all code that takes time: the builder, the item store, the evaluator, the
trainer and everything that they call would have a parameter that only a report reads. A profiler: it knows functions,
not the amount of work that they did. Chosen: spans, as in tracing. Code that takes time opens a phase and counts its
work. Both are entered in the recording of the process; without a recording, they are ignored.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Recorded = dict[str, dict[str, float]]  # phase -> its seconds, how often it was entered, its amounts of work

_RECORDING: ContextVar["_Recording | None"] = ContextVar("phases", default=None)


class _Recording:
    def __init__(self) -> None:
        self.done: Recorded = {}
        self._open: list[str] = []
        self._since = self._busy_since = 0.0

    def enter(self, name: str, again: bool) -> None:
        self._turn()
        self._open.append(name)
        self.of(name)["times"] += not again

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
        """Add the time since the last call to the innermost open phase."""
        _wait_for_device()
        now, busy = time.monotonic(), time.process_time()
        if self._open:
            entry = self.of(self._open[-1])
            entry["seconds"] += now - self._since
            entry["processor_seconds"] += busy - self._busy_since
        self._since, self._busy_since = now, busy


def _wait_for_device() -> None:
    """Wait until the device has finished the work of the current phase; PyTorch is not imported just for that."""
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
    """The finished phases of the current recording, by name; empty if there is no recording."""
    found = _RECORDING.get()
    if found is None:
        return {}
    over = {name: entry for name, entry in found.done.items() if not found.is_open(name)}
    return {name: {key: round(value, 4) for key, value in entry.items()} for name, entry in over.items()}


@contextmanager
def phase(name: str, again: bool = False) -> Iterator[None]:
    """Count the time spent inside for the phase `name`, except for the time of nested phases.

    Args:
        again: this is the rest of a phase that was left before, so that it counts as entered once.
    """
    found = _RECORDING.get()
    if found is None:
        yield
        return
    found.enter(name, again)
    try:
        yield
    finally:
        found.leave()


def did(**amounts: float) -> None:
    """Add amounts of work, by name, to the innermost open phase."""
    found = _RECORDING.get()
    if found is not None:
        found.count(amounts)
