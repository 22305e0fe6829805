"""How every command ends: one line for an error that a user can put right, and quietly when a pipe closes.

Designs considered for a reader that goes away (`transrec lineage … | head`): to give SIGPIPE back its default action,
which would also kill a training whose worker or socket went away; to catch the error at each print, of which there are
many, and none at the last flush. Taken: the flush is part of the command, and the error is caught once, here.
"""

import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol

from transrec.errors import TransRecError

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell reports of `cat FILE | head`


class Main(Protocol):
    """The function that a command's file runs."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run with these arguments, by default those of the process; returns the exit code."""


def command(*errors: type[Exception]) -> Callable[[Main], Main]:
    """Decorate the `main` of a command, whose exit code it returns.

    `TransRecError` and `errors` become one line on standard error and exit code 1 (in a launched process of another
    rank than 0, the line names the rank); Ctrl-C gives 130, a pipe that closed early 141.
    """

    explained: tuple[type[Exception], ...] = (TransRecError, *errors)

    def decorate(main: Main) -> Main:
        @wraps(main)
        def guarded(argv: Sequence[str] | None = None) -> int:
            try:
                return _flushed(main, argv)
            except BrokenPipeError:
                if not _reader_has_gone():  # another pipe than that of the output: a fault of ours
                    raise
                return PIPE_CLOSED
            except SystemExit as end:  # rich leaves so when it cannot print, argparse after its help
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


def _flushed(main: Main, argv: Sequence[str] | None) -> int:
    try:
        return main(argv)
    finally:
        sys.stdout.flush()


def _reader_has_gone() -> bool:
    """Whether standard output or standard error lost its reader; what is still to be written there goes nowhere."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, 0)  # no event is asked for: errors are always reported
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
    # An error without notes has no such attribute.
    print(text, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
