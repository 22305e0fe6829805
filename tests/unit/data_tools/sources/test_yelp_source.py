import json
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

BUSINESSES = [
    {"business_id": "b1", "name": "Café", "city": "Tampa", "state": "FL", "categories": "Cafes, Food", "stars": 4.5},
    {"business_id": "b2", "name": "Gym", "city": "", "state": "FL", "categories": None},
    {"name": "Nameless"},
]
REVIEWS = [
    {"review_id": "r", "user_id": "u", "business_id": "b1", "stars": 3.0, "date": "2018-07-07 22:09:11", "text": "ok"},
    {"review_id": "s", "user_id": "v", "business_id": "b2", "stars": 5.0, "date": "2017-07-14 02:40:00", "text": "ok"},
]


def write(folder: Path, reviews: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("business", BUSINESSES), ("review", reviews)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"yelp_academic_dataset_{name}.json").write_text(text)
    return folder


def test_reviews_and_businesses(tmp_path: Path) -> None:
    folder = write(tmp_path / "yelp", REVIEWS)
    reading = read_source("yelp", "--input", folder)
    cafe, gym = reading.items
    assert (cafe.title, cafe.text) == ("Café", "Café. Cafes, Food. Tampa.")
    assert cafe.fields == {"category": "Cafes, Food", "city": "Tampa", "state": "FL"}
    assert gym.text == "Gym."
    assert reading.interactions == [("u", "b1", 1531001351, 3.0), ("v", "b2", 1500000000, 5.0)]
    assert reading.reasons() == [("yelp_academic_dataset_business.json", 3, "empty_id")]
    index = build_twice("yelp", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 2, 2)


def test_older_releases_have_days(tmp_path: Path) -> None:
    reviews = [row | {"date": row["date"][:10]} for row in REVIEWS]
    assert read_source("yelp", "--input", write(tmp_path, reviews)).interactions[1][2] == 1499990400


def test_a_file_that_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "yelp", [{"user_id": "u"}])
    with pytest.raises(SourceError, match=r"review\.json: its first object has no business_id, date, stars"):
        make_source("yelp", "--input", folder)
    (folder / "yelp_academic_dataset_business.json").unlink()
    with pytest.raises(SourceError, match=r"must hold one yelp_academic_dataset_business\.json, found none"):
        make_source("yelp", "--input", folder)
