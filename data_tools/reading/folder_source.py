"""The bases of the formats that read one folder."""

import argparse
from pathlib import Path
from typing import Any, ClassVar, Self

from data_tools.reading.typed_columns import UNITS


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


class TimedFolderSource(FolderSource):
    """A folder whose timestamps are numbers in a unit that its format does not specify."""

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        self.unit = timestamp_unit

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_unit_argument(parser)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, arguments.timestamp_unit)

    def options(self) -> dict[str, Any]:
        return {} if self.unit == "s" else {"timestamp_unit": self.unit}


def add_unit_argument(parser: argparse._ActionsContainer) -> None:
    """Add --timestamp-unit."""
    parser.add_argument(
        "--timestamp-unit", choices=list(UNITS), default="s", help="unit of numeric timestamps (default: s)"
    )
