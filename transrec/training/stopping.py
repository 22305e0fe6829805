"""Requests to stop a run before its end: signals, and the time limit of a job.

Every rank has its own requests; in each step, the trainer finds the strongest request of all ranks, so that all ranks
stop after the same step.
"""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))


class Stop(IntEnum):
    """A request to stop; if there are several, the largest takes effect."""

    NO = 0
    PAUSE = 1  # SIGUSR1, or the time limit: the run will be started again
    END = 2  # SIGTERM or Ctrl-C


_STOP_BY = {signal.SIGUSR1: Stop.PAUSE, signal.SIGTERM: Stop.END, signal.SIGINT: Stop.END}


class Interrupted(Exception):
    """SIGTERM or Ctrl-C stopped the run after it was saved."""


class Paused(Interrupted):
    """SIGUSR1 or the time limit stopped the run after it was saved; the same command resumes it."""


def seconds(duration: str) -> int:
    """Seconds of a duration such as `1d`, `3h50m` or `90s`.

    Raises:
        ValueError: `duration` has another form, or is zero.
    """
    found = _DURATION.fullmatch(duration)
    total = (
        sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS.values(), strict=True))
        if found
        else 0
    )
    if total == 0:
        raise ValueError(f"{duration!r} is not a duration: write it like 3h50m, 90s or 1d")
    return total


def _as_written(value: Any) -> Any:
    if value is not None:
        seconds(str(value))
    return value


Duration = Annotated[str, BeforeValidator(_as_written)]


class StopRequest:
    """The requests to stop that this rank has received.

    Args:
        time_limit: the time from now after which the run pauses; None: no limit.
    """

    def __init__(self, time_limit: str | None) -> None:
        self._signalled = Stop.NO
        self._until = None if time_limit is None else time.monotonic() + seconds(time_limit)

    def now(self) -> Stop:
        """The strongest request so far."""
        late = self._until is not None and time.monotonic() > self._until
        return max(self._signalled, Stop.PAUSE if late else Stop.NO)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Treat signals as requests; handlers are unchanged in a thread other than the main one, as under Ray."""
        handled = _STOP_BY if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, self._hear) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signalled = max(self._signalled, _STOP_BY[signal.Signals(number)])
        if number == signal.SIGINT:  # a second Ctrl-C stops without waiting for the step
            signal.signal(signal.SIGINT, signal.default_int_handler)
