"""Progress of long data work on standard error, with rate and time left: a bar on a terminal, else lines of text.

Work that takes a second or two shows nothing.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from transrec.terminal import messages
from transrec.work import Advance

Thing = TypeVar("Thing")

SECONDS_BEFORE, SECONDS_BETWEEN_LINES = 2.0, 30.0


@contextmanager
def progress(name: str, total: int, shown: bool | None = None, unit: str = "items") -> Iterator[Advance]:
    """Show progress of the work `name` on `total` items; call the yielded function with the number just done.

    Args:
        shown: whether this process shows it; by default, the first of a node does.
        unit: what is counted.
    """
    if not (os.environ.get("LOCAL_RANK", "0") == "0" if shown is None else shown):
        yield lambda done: None
        return
    console = messages()
    display = _Bar(name, total, console) if console.is_terminal else _Lines(name, total, unit, console)
    try:
        yield display.advance
    finally:
        display.close()


def tracked(name: str, things: Collection[Thing]) -> Iterator[Thing]:
    """The things one by one; each counts as done when the next is requested."""
    with progress(name, len(things)) as advance:
        for thing in things:
            yield thing
            advance(1)


class _Lines:
    """A line after the first seconds, then one every half minute, and one at the end if the work took that long."""

    def __init__(self, name: str, total: int, unit: str, console: Console) -> None:
        self._name, self._total, self._unit, self._console = name, total, unit, console
        self._done, self._start = 0, time.monotonic()
        self._next_line = self._start + SECONDS_BEFORE

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now >= self._next_line and self._done < self._total:
            self._next_line = now + SECONDS_BETWEEN_LINES
            self._console.print(
                line(self._name, self._done, self._total, now - self._start, self._unit), highlight=False
            )

    def close(self) -> None:
        seconds = time.monotonic() - self._start
        if self._done >= self._total and seconds > SECONDS_BEFORE:
            self._print(seconds)

    def _print(self, seconds: float) -> None:
        self._console.print(line(self._name, self._done, self._total, seconds, self._unit), highlight=False)


def line(name: str, done: int, total: int, seconds: float, unit: str = "items") -> str:
    """`tokenising: 4,096 of 20,000 items  512/s  0.5 min left`; at the end, the time taken instead."""
    rate = done / max(1e-9, seconds)
    left = f"{(total - done) / max(1e-9, rate) / 60:,.1f} min left" if done < total else f"took {seconds / 60:,.1f} min"
    return f"{name}: {done:,} of {total:,} {unit}  {rate:,.{0 if rate >= 10 else 1}f}/s  {left}"


class _Bar:
    """A bar that appears after the first seconds."""

    def __init__(self, name: str, total: int, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task(name, total=total)
        self._show_at = time.monotonic() + SECONDS_BEFORE

    def advance(self, done: int) -> None:
        self._bar.advance(self._task, done)
        if time.monotonic() >= self._show_at and not self._bar.live.is_started:
            self._bar.start()

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")
