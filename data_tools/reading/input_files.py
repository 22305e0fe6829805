"""Input files given by patterns, and names that tell them apart."""

from collections.abc import Sequence
from glob import escape, glob
from pathlib import Path

from data_tools.sources.source import SourceError


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files of each pattern (`*`, `?`, `**`) by name, in the order of the patterns.

    A folder stands for the files in it but those whose name begins with `.` or `_`.

    Raises:
        SourceError: a pattern without a file, or a file found twice.
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
    if not path.is_file():
        raise SourceError(f"{path} is missing")
    return path


def require_distinct_paths(paths: list[Path]) -> list[Path]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise SourceError(f"the same file or folder is given twice: {', '.join(map(str, paths))}")
    return paths


def label_files(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file in rejects: the file name, led by as many folders as it takes to tell them apart."""
    parts = [path.absolute().parts for path in paths]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return {path: "/".join(part[-depth:]) for path, part in zip(paths, parts, strict=True)}
