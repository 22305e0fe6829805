"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transrec.errors import TransRecError


class StorageError(TransRecError):
    """A disk that does not take what is written; the message names the file and says what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writes to `path`: a full disk or a folder that is read-only ends a run with one sentence."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. "
            "Make room on that disk, or make it writable; then start the same command again"
        ) from None


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on success it is flushed to disk and takes the name of `path`."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
            _flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole, in UTF-8: it is never seen half written."""
    with replace_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def rename_folder(partial: Path, final: Path) -> None:
    """Give a finished folder its name, everything in it flushed to disk first."""
    for path in partial.rglob("*"):
        _flush(path)
    _flush(partial)
    partial.rename(final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
