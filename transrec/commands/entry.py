"""Error handling of all commands: one line for errors that a user can fix, and a silent exit when a pipe closes.

Designs considered for a reader that closes the pipe early (`transrec lineage … | head`). Restoring the default action
of SIGPIPE: it would also kill a training whose worker or socket closes. Catching the error at each print: there are
many, and the final flush is not one of them. Chosen: the command includes the flush, and the error is caught once,
here.
"""

import argparse
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar

from transrec.errors import TransRecError
from transrec.files import plain_json

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell reports for `cat FILE | head`


Number = TypeVar("Number", int, float)


class Main(Protocol):
    """The `main` function of a command."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run with `argv`, by default the arguments of the process, and return the exit code."""


def command(*errors: type[Exception]) -> Callable[[Main], Main]:
    """Decorate the `main` of a command so that errors become exit codes.

    `TransRecError` and `errors` become one line on standard error and exit code 1 (with the rank, if it is not 0).
    Ctrl-C gives 130, a pipe that closed early 141.
    """

    explained: tuple[type[Exception], ...] = (TransRecError, *errors)

    def decorate(main: Main) -> Main:
        @wraps(main)
        def guarded(argv: Sequence[str] | None = None) -> int:
            try:
                return _flushed(main, argv)
            except BrokenPipeError as closed:
                if not _reader_has_gone():  # not the pipe of the output: a bug
                    raise
                if isinstance(closed.__context__, explained):  # raised while that error was being handled
                    _explain(f"{_who()}: {closed.__context__}", closed.__context__)
                    return FAILED
                return PIPE_CLOSED
            except SystemExit as end:  # raised by rich if it cannot print, by argparse after its help
                if isinstance(end.__context__, BrokenPipeError):
                    return PIPE_CLOSED
                raise
            except explained as error:
                _explain(f"{_who()}: {error}", error)
                return FAILED
            except KeyboardInterrupt as interrupt:
                _explain("interrupted", interrupt)
                return INTERRUPTED

        return guarded

    return decorate


def positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """The type of an argument that is a number above 0; `kind` is `int` or `float`."""

    def number(text: str) -> Number:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, with which a command prints one JSON document instead of tables and lines."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables and lines")


def values_joined(argv: Sequence[str] | None, *options: str) -> list[str]:
    """The arguments with `--option VALUE` as `--option=VALUE`: argparse would read a VALUE like `-x7` as an option."""
    found: list[str] = []
    for argument in sys.argv[1:] if argv is None else argv:
        if found and found[-1] in options and not argument.startswith("--"):
            found[-1] = f"{found[-1]}={argument}"
        else:
            found.append(argument)
    return found


def print_json(value: Any, flush: bool = False) -> None:
    """Print a value as a line of JSON, with escapes only where the output cannot take its characters."""
    value = plain_json(value)
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=flush)


def _flushed(main: Main, argv: Sequence[str] | None) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an ASCII terminal shows `?` for a character it lacks
    logging.raiseExceptions = False  # otherwise a library's log message to a closed pipe prints a traceback
    try:
        return main(argv)
    finally:
        sys.stdout.flush()


def _reader_has_gone() -> bool:
    """Whether standard output or standard error has lost its reader; further output to it is discarded."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, 0)  # no events requested: errors are always reported
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            gone = True
    return gone


def _who() -> str:
    rank = os.environ.get("RANK", "0")  # set by the launcher
    return "error" if rank == "0" else f"error on rank {rank}"


def _explain(text: str, error: BaseException) -> None:
    # The attribute exists only once a note has been added.
    print(text, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
