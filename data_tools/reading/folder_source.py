"""What formats have in common that are one folder, read as it is."""

import argparse
from pathlib import Path
from typing import Any, ClassVar, Self


class FolderSource:
    """A source whose one option is its folder, which says nothing about the content."""

    input_is: ClassVar[str]  # for the command line's help

    def __init__(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--input", type=Path, required=True, metavar="DIR", help=cls.input_is)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input)

    def options(self) -> dict[str, Any]:
        return {}
