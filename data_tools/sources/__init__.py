"""Raw formats, one file each; the names here are the choices of `--source`."""

from data_tools.source import Source
from data_tools.sources.adressa import AdressaSource
from data_tools.sources.amazon_m2 import AmazonM2Source
from data_tools.sources.amazon_reviews import AmazonReviewsSource
from data_tools.sources.csv import CsvSource
from data_tools.sources.ebnerd import EBNeRDSource
from data_tools.sources.goodreads import GoodreadsSource
from data_tools.sources.hm import HMSource
from data_tools.sources.kuairand import KuaiRandSource
from data_tools.sources.kuairec import KuaiRecSource
from data_tools.sources.microlens import MicroLensSource
from data_tools.sources.mind import MindSource
from data_tools.sources.movielens import MovieLensSource
from data_tools.sources.ninerec import NineRecSource
from data_tools.sources.parquet import ParquetSource
from data_tools.sources.pixelrec import PixelRecSource
from data_tools.sources.recbole import RecBoleSource
from data_tools.sources.sample import SampleSource
from data_tools.sources.sequences_txt import SequencesTxtSource
from data_tools.sources.steam import SteamSource
from data_tools.sources.synthetic import SyntheticSource
from data_tools.sources.tables import TablesSource
from data_tools.sources.tenrec import TenrecSource
from data_tools.sources.transrec_tsv import TransRecTsvSource
from data_tools.sources.webdataset import WebDatasetSource
from data_tools.sources.yelp import YelpSource

SOURCES: dict[str, type[Source]] = {
    "tables": TablesSource,
    "recbole": RecBoleSource,
    "csv": CsvSource,
    "parquet": ParquetSource,
    "webdataset": WebDatasetSource,
    "movielens": MovieLensSource,
    "mind": MindSource,
    "hm": HMSource,
    "amazon_reviews": AmazonReviewsSource,
    "adressa": AdressaSource,
    "ninerec": NineRecSource,
    "tenrec": TenrecSource,
    "microlens": MicroLensSource,
    "pixelrec": PixelRecSource,
    "ebnerd": EBNeRDSource,
    "kuairec": KuaiRecSource,
    "kuairand": KuaiRandSource,
    "amazon_m2": AmazonM2Source,
    "goodreads": GoodreadsSource,
    "yelp": YelpSource,
    "steam": SteamSource,
    "transrec_tsv": TransRecTsvSource,
    "sequences": SequencesTxtSource,
    "synthetic": SyntheticSource,
    "sample": SampleSource,
}
