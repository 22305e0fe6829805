"""Amazon Reviews of 2014 (https://jmcauley.ucsd.edu/data/amazon), 2018 (https://nijianmo.github.io/amazon) and 2023
(https://amazon-reviews-2023.github.io).

A folder of JSON lines with one or more categories: `meta_<category>.jsonl` has products, any other file has
reviews; `.json` and `.gz` are also accepted. Hidden files, and files without an object, are skipped. The keys in the
first line of a review file determine the generation:

                user        item         rating   time
    2014, 2018  reviewerID  asin         overall  unixReviewTime (seconds)
    2023        user_id     parent_asin  rating   timestamp (milliseconds)

The products of 2014 are Python literals, not JSON. For ratings without reviews (`ratings_….csv`), use `--source csv`.

Times are UTC. Text is title, features and description; `brand` (in 2023 the store), `category` and `image_url` have
the same names in all generations, so a model of one generation can read another. The files hold image URLs, not
images; images are taken from `images/<asin>.jpg` if that folder exists.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text, flatten
from data_tools.reading.json_lines import read_json_lines, read_objects, to_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import to_interactions
from data_tools.rejects import Reason, Reject, RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class ReviewKeys(NamedTuple):
    """The JSON keys of a review in one generation."""

    user_id: str
    item_id: str
    rating: str
    timestamp: str


GENERATIONS = {
    ReviewKeys("reviewerID", "asin", "overall", "unixReviewTime"): "s",
    ReviewKeys("user_id", "parent_asin", "rating", "timestamp"): "ms",
}


class AmazonReviewsSource:
    """Reads the folder.

    Raises:
        SourceError: there is no file of reviews or of products, or the reviews are of no known generation.
    """

    def __init__(self, folder: Path) -> None:
        files = [path for path in visible_files(folder, "*") if path.name.endswith(SUFFIXES)]
        first = {path: _first_object(path) for path in files}
        self._products = [path for path in files if first[path] and path.name.startswith("meta_")]
        reviews = (path for path in files if first[path] and not path.name.startswith("meta_"))
        self._reviews = {path: _detect_keys(path, first[path]) for path in reviews}
        self._images = ImageFolder.find(folder / "images")
        if not self._products or not self._reviews:
            found = ", ".join(path.name + ("" if first[path] else " (empty)") for path in files) or "none"
            raise SourceError(
                f"{folder} must hold files of reviews, and files of products called meta_…; found {found}"
            )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input",
            type=Path,
            required=True,
            metavar="DIR",
            help="folder of files of reviews, and of files of products called meta_…",
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input)

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        return Totals(count_lines(self._products), count_lines(self._reviews))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._products:
            for line, product in read_objects(path, reject, literals=True):
                ids = (to_text(product.get(key)) or "" for key in ("parent_asin", "asin"))
                if item_id := next(filter(str.strip, ids), None):
                    yield self._to_item(path.name, line, item_id, product, reject)
                else:
                    reject(Reject(path.name, line, Reason.EMPTY_ID, "neither parent_asin nor asin"))

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for path, keys in self._reviews.items():
            for batch in read_json_lines(path, keys, reject, literals=True):
                rows = batch.rows.rename_columns(list(ReviewKeys._fields))
                yield to_interactions(batch._replace(rows=rows), reject, GENERATIONS[keys])

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())

    def _to_item(self, file: str, line: int, item_id: str, product: dict[str, Any], reject: RejectSink) -> Item:
        title = " ".join(flatten(product.get("title")))
        return Item(
            file=file,
            line=line,
            item_id=item_id,
            title=title,
            text=compose_text([title, *flatten(product.get("features")), *flatten(product.get("description"))]),
            fields={
                "brand": next(iter(flatten(product.get("brand")) + flatten(product.get("store"))), ""),
                "category": " > ".join(_categories(product)) or to_text(product.get("main_category")) or "",
                "image_url": _image_url(product),
            },
            image=self._images.locate(f"{item_id}.jpg", file, line, reject) if self._images else None,
        )


def _first_object(path: Path) -> dict[str, Any]:
    _, first = next(read_objects(path, ignore, literals=True), (0, {}))
    return first


def _detect_keys(path: Path, review: dict[str, Any]) -> ReviewKeys:
    for keys in GENERATIONS:
        if {keys.user_id, keys.item_id, keys.timestamp} <= set(review):
            return keys
    raise SourceError(
        f"{path}: no reviews of 2014 or 2018 (reviewerID, asin, unixReviewTime) or 2023 (user_id, parent_asin, "
        f"timestamp); its first object has {', '.join(review)}"
    )


def _categories(product: dict[str, Any]) -> list[str]:
    """The path of the product's category; the first if there are several, as in 2014."""
    several = product.get("categories")
    if isinstance(several, list) and several and isinstance(several[0], list):
        return flatten(several[0])
    return flatten(product.get("category"))


def _image_url(product: dict[str, Any]) -> str:
    """URL of the first image, in the largest size available; "" if there is none."""
    if urls := flatten(product.get("imageURLHighRes")) or flatten(product.get("imUrl")):
        return urls[0]
    images = product.get("images")
    first = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
    return next(iter(flatten(first.get("hi_res")) + flatten(first.get("large"))), "")
