"""Finds input files by patterns and gives them distinct names."""

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from urllib.parse import unquote

from data_tools.source import SourceError

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files of each pattern (`*`, `?`, `[…]`, `**`) by name, in the order of the patterns.

    If a file has the name of a pattern, the pattern stands for that file. A folder stands for all its files, and
    those in its partitions (folders such as `year=2024`), except those whose names begin with `.` or `_`.

    Raises:
        SourceError: a pattern matches no file, or a file is found twice.
    """
    found: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            paths = list(_files_of(Path(pattern)))
        elif Path(pattern).exists():
            paths = [Path(pattern)]
        else:
            paths = [path for path in map(Path, sorted(glob(pattern, recursive=True))) if path.is_file()]
        if not paths:
            raise SourceError(f"{pattern}: no such file{_what_is_there(Path(pattern))}")
        found += paths
    return require_distinct_paths(found)


def partition_of(path: Path, patterns: Sequence[str]) -> dict[str, str | None]:
    """The columns stated by the folders of `path` in Hive's format (`year=2024/month=5`), if a pattern is a folder
    above them."""
    above = [Path(pattern) for pattern in patterns if Path(pattern) in path.parents]
    parts = path.parent.relative_to(above[0]).parts if above else ()
    pairs = (part.split("=", 1) for part in parts)
    return {name: None if value == _HIVE_NULL else unquote(value) for name, value in pairs}


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match, by name, without hidden ones such as the `._x` of archives made by macOS."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))


def _files_of(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and "=" in path.name:
            yield from _files_of(path)
        elif path.is_file() and not path.name.startswith((".", "_")):
            yield path


def _what_is_there(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f" in this folder, only {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""


def require_file(path: Path) -> Path:
    """The path; raises SourceError if it is not a file."""
    if not path.is_file():
        raise SourceError(f"{path} is missing")
    return path


def require_distinct_paths(paths: list[Path]) -> list[Path]:
    """The paths; raises SourceError if two of them are the same file or folder."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise SourceError(f"the same file or folder is given twice: {', '.join(map(str, paths))}")
    return paths


def label_files(paths: Sequence[Path]) -> dict[Path, str]:
    """A distinct name of each file for rejects: the file name, after as many folders as are needed."""
    parts = [path.absolute().parts for path in paths]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return {path: "/".join(part[-depth:]) for path, part in zip(paths, parts, strict=True)}
