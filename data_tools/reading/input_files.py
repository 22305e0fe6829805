"""Finds input files by patterns and gives them distinct names."""

from collections.abc import Sequence
from glob import escape, glob
from pathlib import Path

from data_tools.sources.source import SourceError


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files of each pattern (`*`, `?`, `**`) by name, in the order of the patterns.

    A folder stands for all its files except those whose names begin with `.` or `_`.

    Raises:
        SourceError: a pattern matches no file, or a file is found twice.
    """
    found: list[Path] = []
    for pattern in patterns:
        names = glob(f"{escape(pattern)}/[!._]*" if Path(pattern).is_dir() else pattern, recursive=True)
        paths = [path for path in map(Path, sorted(names)) if path.is_file()]
        if not paths:
            raise SourceError(f"{pattern}: no such file")
        found += paths
    return require_distinct_paths(found)


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
