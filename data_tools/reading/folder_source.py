"""The base of the formats that read one folder."""

import argparse
from pathlib import Path
from typing import Any, ClassVar, Self


class FolderSource:
    """A source whose only option is its folder, which does not determine the content."""

    input_is: ClassVar[str]  # help text of --input

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
