"""Files: written atomically, so that each is complete or absent, and read line by line."""

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transrec.errors import TransRecError

_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make that disk writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EEXIST: "choose a place that is not a file",
    errno.ENOTDIR: "choose a place that is not inside a file",
    errno.EISDIR: "choose a place that is not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose a place that is not a link to itself",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENOENT: "make its folder again, or choose another place",
    errno.ESTALE: "mount that storage again",
    errno.EIO: "check that disk",
}


_POINTER = b"version https://git-lfs"


class StorageError(TransRecError):
    """A file cannot be written; the message names it and the remedy."""


class LinesError(TransRecError, ValueError):
    """A line of a file cannot be read; the message gives its number and the fault."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` from writes to `path`, such as a full disk or a read-only folder, into a `StorageError`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "remove the cause")
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. "
            f"{remedy[0].upper()}{remedy[1:]}; then start the same command again"
        ) from None


def json_lines(lines: Iterable[bytes], name: str | Path) -> Iterator[tuple[int, Any]]:
    r"""The number, from 1, and the JSON value of each line that is not blank.

    Args:
        lines: an open file, whose lines end at `\n` alone. `str.splitlines` also cuts at characters that JSON allows
            inside strings, such as U+2028.
        name: the file, for messages.

    Raises:
        LinesError: a line is not JSON in UTF-8, or an object has a key twice, of which only one would count.
    """
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # a byte order mark is not part of the text
            if text.strip():
                yield number, json.loads(text, object_pairs_hook=_distinct)
        except UnicodeDecodeError as error:
            raise LinesError(f"{name}, line {number}: byte {error.start + 1} is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise LinesError(f"{name}, line {number}: not JSON ({error})") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    return parsed_json(path.read_bytes())


def parsed_json(data: bytes | str) -> Any:
    """
    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deeply, which the parser reports as an error of its own.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return found


def plain_json(value: Any) -> Any:
    """The value with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_git_lfs_pointer(path: Path) -> bool:
    """Whether a file is a git-lfs pointer: a few lines in place of a file that was not downloaded."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


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
    _flush_all(partial)
    partial.rename(final)
    _flush(final.parent)


def move_files(partial: Path, folder: Path, last: str, replaced: Collection[str]) -> None:
    """Flush everything in a finished folder to disk, then move it into `folder`, which exists.

    Args:
        last: the file that is moved last; the older one of that name is removed first.
        replaced: files of `folder` that are removed unless newer ones take their place.
    """
    _flush_all(partial)
    entries = sorted(partial.iterdir(), key=lambda path: path.name == last)
    for name in {last, *replaced} - {path.name for path in entries[:-1]}:
        (folder / name).unlink(missing_ok=True)
    for path in entries:
        path.rename(folder / path.name)
    _flush(folder)


def _flush_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
