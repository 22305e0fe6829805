"""Yelp Open Dataset (https://www.yelp.com/dataset), the folder as unpacked; JSON lines, also `.gz`.

yelp_academic_dataset_business.json    business_id, name, city, state, categories, …
yelp_academic_dataset_review.json      user_id, business_id, stars, date, …

What the format leaves open: a review is an interaction at its date, taken as UTC; older releases have only the day,
whose start is used. The title is the name; the text is the name, the categories and the city. Tips, check-ins,
users and the texts of reviews are not read.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.folder_source import FolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text, flatten
from data_tools.reading.json_lines import read_json_lines, read_objects, to_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import to_interactions
from data_tools.rejects import Reason, Reject, RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

KEYS = {"user_id": "user_id", "business_id": "item_id", "date": "timestamp", "stars": "rating"}
_DAY, _SECOND = "%Y-%m-%d", "%Y-%m-%d %H:%M:%S"


class YelpSource(FolderSource):
    """Reads the folder.

    Raises:
        SourceError: a file is missing, occurs more than once, or has other keys in its first line.
    """

    input_is = "folder of yelp_academic_dataset_business.json and yelp_academic_dataset_review.json"

    def __init__(self, folder: Path) -> None:
        self._businesses = _find(folder, "business", {"business_id", "name"})
        self._reviews = _find(folder, "review", set(KEYS))
        _, first = next(read_objects(self._reviews, ignore), (0, {}))
        self._time = _DAY if len(str(first.get("date"))) == len("2018-07-07") else _SECOND

    def totals(self) -> Totals:
        return Totals(count_lines([self._businesses]), count_lines([self._reviews]))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for line, business in read_objects(self._businesses, reject):
            item_id = to_text(business.get("business_id")) or ""
            name, city = (" ".join(flatten(business.get(key))) for key in ("name", "city"))
            category = ", ".join(flatten(business.get("categories")))
            if item_id.strip():
                text = compose_text([name, category, city])
                fields = {"category": category, "city": city, "state": " ".join(flatten(business.get("state")))}
                yield Item(self._businesses.name, line, item_id, name, text, fields, image=None)
            else:
                reject(Reject(self._businesses.name, line, Reason.EMPTY_ID, "no business_id"))

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for batch in read_json_lines(self._reviews, list(KEYS), reject):
            rows = batch.rows.rename_columns(list(KEYS.values()))
            yield to_interactions(batch._replace(rows=rows), reject, self._time)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _find(folder: Path, kind: str, keys: set[str]) -> Path:
    found = visible_files(folder, f"*{kind}.json*")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{folder} must hold one yelp_academic_dataset_{kind}.json, found {names}")
    _, first = next(read_objects(found[0], ignore), (0, {}))
    if missing := keys - set(first):
        raise SourceError(f"{found[0]}: its first object has no {', '.join(sorted(missing))}")
    return found[0]
