"""Consoles for output to people. They interpret no markup, since names from data may look like it: `[/part 1]`."""

import sys
import unicodedata

from rich.console import Console

_PLAIN = {"markup": False, "emoji": False, "highlight": False}
_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # categories: control, surrogate, line and paragraph separators


def console() -> Console:
    """The console for tables. Logs and pipes have no width, so there it uses 120 columns."""
    terminal = Console(**_PLAIN)  # type: ignore[arg-type]
    return terminal if terminal.is_terminal else Console(width=120, **_PLAIN)  # type: ignore[arg-type]


def messages() -> Console:
    """The console for progress and warnings, on standard error."""
    return Console(stderr=True, soft_wrap=True, **_PLAIN)  # type: ignore[arg-type]


def read_by_program() -> bool:
    """Whether the output goes to a program or a file, which may want a line of JSON after the tables."""
    return not sys.stdout.isatty()


def shortened(text: str, most: int = 80) -> str:
    """A name from data on one line of at most `most` characters; line ends and control characters become spaces."""
    visible = "".join(" " if unicodedata.category(c) in _NOT_SHOWN else c for c in text[: 4 * most])
    line = " ".join(visible.split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}…"
