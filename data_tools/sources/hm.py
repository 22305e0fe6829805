"""H&M Personalized Fashion Recommendations, as published on Kaggle.

articles.csv              article_id, prod_name, product_type_name, colour_group_name, department_name, detail_desc, …
transactions_train.csv    t_dat (a day), customer_id, article_id, price, sales_channel_id
customers.csv             customer_id and columns of the user
images/012/0123456789.jpg in folders named by the first three digits of the article id; optional

Article ids keep their leading zeros. The time of a transaction is the start of its day, UTC; transactions of one day
keep the order of the file. Every line of transactions_train.csv is an interaction, even if it repeats another.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.csv_files import read_csv, require_csv
from data_tools.reading.folder_source import FolderSource
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, Totals

SPOKEN = ("prod_name", "product_type_name", "colour_group_name", "department_name", "detail_desc")
TIME_FORMAT = "%Y-%m-%d"
_NAMES = {"customer_id": "user_id", "article_id": "item_id", "t_dat": "timestamp"}


class HMSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: a file or a column is missing.
    """

    input_is = "folder of the unpacked archive"

    def __init__(self, folder: Path) -> None:
        self._articles = require_csv(folder / "articles.csv", {"article_id", *SPOKEN})
        self._transactions = require_csv(folder / "transactions_train.csv", {"t_dat", "customer_id", "article_id"})
        self._customers = require_csv(folder / "customers.csv", {"customer_id"})
        self._images = ImageFolder.find(folder / "images")

    def totals(self) -> Totals:
        return Totals(count_lines([self._articles]), count_lines([self._transactions]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_csv(self._articles, reject):
            batch = to_strings(_rename(raw), "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id, text = row.pop("item_id"), compose_text(row[name] for name in SPOKEN)
                image = f"{item_id[:3]}/{item_id}.jpg"
                yield Item(
                    file=batch.file,
                    line=line,
                    item_id=item_id,
                    title=row.pop("prod_name"),
                    text=text,
                    fields=row,
                    image=self._images.locate(image, batch.file, line, reject) if self._images else None,
                )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_csv(self._transactions, reject):
            yield to_interactions(_rename(batch), reject, TIME_FORMAT)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_csv(self._customers, reject):
            yield to_strings(_rename(batch), "user_id", reject)


def _rename(batch: Batch) -> Batch:
    names = [_NAMES.get(name, name) for name in batch.rows.schema.names]
    return batch._replace(rows=batch.rows.rename_columns(names))
