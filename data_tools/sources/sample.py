"""The bundled data set, `data_tools/sample/`: wines and their ratings, as tables."""

import argparse
from pathlib import Path
from typing import Self

from data_tools.sources.tables import TablesSource

SAMPLE_FOLDER = Path(__file__).parents[1] / "sample"


class SampleSource(TablesSource):
    """Reads the tables of the bundled data set."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add no arguments: the data is part of the package."""

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(SAMPLE_FOLDER)
