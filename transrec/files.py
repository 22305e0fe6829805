"""Atomic file writes: a file is either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transrec.errors import TransRecError


class StorageError(TransRecError):
    """A file cannot be written; the message names it and the remedy."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` from writes to `path`, such as a full disk or a read-only folder, into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. "
            "Make room on that disk, or make it writable; then start the same command again"
        ) from None


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`."""
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
    """Write a UTF-8 file atomically."""
    with replace_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def rename_folder(partial: Path, final: Path) -> None:
    """Flush everything in a finished folder to disk, then rename it."""
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
