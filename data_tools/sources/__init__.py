"""Raw formats, one file each; `--source` chooses by the name here."""

from data_tools.sources.recbole import RecBoleSource
from data_tools.sources.sample import SampleSource
from data_tools.sources.source import Source
from data_tools.sources.synthetic import SyntheticSource
from data_tools.sources.tables import TablesSource

SOURCES: dict[str, type[Source]] = {
    "tables": TablesSource,
    "recbole": RecBoleSource,
    "synthetic": SyntheticSource,
    "sample": SampleSource,
}
