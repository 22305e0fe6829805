"""Shows the progress of long steps, with rate and time left, if standard error is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from transrec.terminal import messages

Advance = Callable[[int], None]


class _CountAndRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f" / {task.total:,.0f}"
        rate = "" if task.speed is None else f"  {task.speed:,.0f}/s"
        return Text(f"{task.completed:,.0f}{total}{rate}", style="progress.data.speed")


@contextmanager
def step(name: str, total: int | None = None) -> Iterator[Advance]:
    """Show a bar called `name` during the `with` block; yield a function that advances it by a number of steps."""
    console = messages()
    bar = Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        _CountAndRate(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    # Before rich 14.3 even a disabled bar prints an empty line when it stops.
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(name, total=total)
        yield lambda done: bar.advance(task, done)
