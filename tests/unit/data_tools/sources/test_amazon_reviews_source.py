import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.amazon_reviews import AmazonReviewsSource

REVIEWS_2018 = [
    {"overall": 5.0, "verified": True, "reviewerID": "A1", "asin": "0000001", "unixReviewTime": 1514764800},
    {"overall": 2.0, "reviewerID": "A2", "asin": "B2", "unixReviewTime": 1514764801, "reviewText": "no"},
]
PRODUCTS_2018 = [
    {
        "asin": "0000001",
        "title": "Soap",
        "description": ["Clean", "Cleaner!"],
        "brand": "Acme",
        "category": ["Beauty", "Bath"],
        "imageURLHighRes": ["https://x/1.jpg", "https://x/2.jpg"],
    },
    {"asin": "B2", "title": "Comb", "description": []},
]
REVIEWS_2023 = [
    {"rating": 4.0, "asin": "B3x", "parent_asin": "B3", "user_id": "AE1", "timestamp": 1588687728923, "title": "Nice"}
]
PRODUCTS_2023 = [
    {
        "main_category": "All Beauty",
        "title": "Brush",
        "features": ["Soft"],
        "description": ["For hair."],
        "store": "Brushes",
        "images": [{"thumb": "https://x/t.jpg", "large": "https://x/l.jpg", "variant": "MAIN", "hi_res": None}],
        "categories": [],
        "parent_asin": "B3",
        "price": None,
    }
]


def to_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_folder(folder: Path, reviews: list[dict], products: list[dict], suffix: str) -> Path:
    folder.mkdir()
    pack = gzip.compress if suffix.endswith(".gz") else bytes
    (folder / f"All_Beauty{suffix}").write_bytes(pack(to_lines(reviews)))
    (folder / f"meta_All_Beauty{suffix}").write_bytes(pack(to_lines(products)))
    return folder


@pytest.fixture
def of_2018(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "of_2018", REVIEWS_2018, PRODUCTS_2018, ".json.gz")


@pytest.fixture
def of_2023(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "of_2023", REVIEWS_2023, PRODUCTS_2023, ".jsonl")


def test_2018(of_2018: Path) -> None:
    reading = read_source("amazon_reviews", "--input", of_2018)
    soap, comb = reading.items
    assert (soap.file, soap.line, soap.item_id, soap.title) == ("meta_All_Beauty.json.gz", 1, "0000001", "Soap")
    assert soap.text == "Soap. Clean. Cleaner!"
    assert soap.fields == {"brand": "Acme", "category": "Beauty > Bath", "image_url": "https://x/1.jpg"}
    assert (comb.text, comb.fields) == ("Comb.", {"brand": "", "category": "", "image_url": ""})
    assert reading.interactions == [("A1", "0000001", 1514764800, 5.0), ("A2", "B2", 1514764801, 2.0)]
    assert reading.users == reading.rejects == []


def test_2023(of_2023: Path) -> None:
    reading = read_source("amazon_reviews", "--input", of_2023)
    [brush] = reading.items
    assert (brush.item_id, brush.title, brush.text) == ("B3", "Brush", "Brush. Soft. For hair.")
    assert brush.fields == {"brand": "Brushes", "category": "All Beauty", "image_url": "https://x/l.jpg"}
    assert reading.interactions == [("AE1", "B3", 1588687728, 4.0)]


def test_rejects(of_2023: Path) -> None:
    with (of_2023 / "All_Beauty.jsonl").open("ab") as file:
        file.write(b"{no json\n" + to_lines([REVIEWS_2023[0] | {"timestamp": "late"}, {"rating": 1}]))
    with (of_2023 / "meta_All_Beauty.jsonl").open("ab") as file:
        file.write(to_lines([{"title": "Nameless"}]))
    assert read_source("amazon_reviews", "--input", of_2023).reasons() == [
        ("meta_All_Beauty.jsonl", 2, "empty_id"),
        ("All_Beauty.jsonl", 2, "bad_json"),
        ("All_Beauty.jsonl", 3, "bad_timestamp"),
        ("All_Beauty.jsonl", 4, "empty_id"),
    ]


def test_the_number_0_is_an_id_and_an_empty_one_is_not(of_2023: Path) -> None:
    with (of_2023 / "meta_All_Beauty.jsonl").open("ab") as file:
        file.write(to_lines([{"parent_asin": 0, "asin": "B0", "title": "T"}, {"parent_asin": " ", "asin": "B4"}]))
    reading = read_source("amazon_reviews", "--input", of_2023)
    assert [item.item_id for item in reading.items] == ["B3", "0", "B4"]


def test_build_with_images(of_2018: Path, tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    (of_2018 / "images").mkdir()
    (of_2018 / "images" / "0000001.jpg").write_bytes(image_bytes())
    index = build_twice("amazon_reviews", ["--input", of_2018], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions, index.counts.images) == (2, 2, 2, 1)
    assert index.counts.rejects == {"missing_image": 1}


def test_image_names_cannot_leave_the_folder(of_2023: Path) -> None:
    (of_2023 / "images").mkdir()
    (of_2023 / "meta_All_Beauty.jsonl").write_bytes(to_lines([{"parent_asin": "../All_Beauty", "title": "T"}]))
    reading = read_source("amazon_reviews", "--input", of_2023)
    assert reading.items[0].image is None
    assert reading.reasons() == [("meta_All_Beauty.jsonl", 1, "bad_image")]


def test_a_cut_gzip_is_an_error_naming_the_file(of_2018: Path) -> None:
    path = of_2018 / "meta_All_Beauty.json.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SourceError, match=r"meta_All_Beauty\.json\.gz is not a complete gzip file"):
        read_source("amazon_reviews", "--input", of_2018)


def test_neither_generation_and_missing_files(of_2023: Path) -> None:
    (of_2023 / "All_Beauty.jsonl").write_text('{"user": 1}\n')
    with pytest.raises(SourceError, match=r"no reviews of 2014 or 2018 .* its first object has user"):
        AmazonReviewsSource(of_2023)
    (of_2023 / "All_Beauty.jsonl").unlink()
    with pytest.raises(SourceError, match=r"found meta_All_Beauty\.jsonl"):
        AmazonReviewsSource(of_2023)


def test_hidden_and_empty_files_are_passed_over(of_2023: Path) -> None:
    """`._X.json` is what macOS leaves in archives; an empty file, what a category without reviews leaves."""
    expected = read_source("amazon_reviews", "--input", of_2023)
    for name in ("._All_Beauty.jsonl", "._meta_All_Beauty.jsonl"):
        (of_2023 / name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    for name in ("Empty.jsonl", "meta_Empty.jsonl", "Blank.json"):
        (of_2023 / name).write_text("\n" if name == "Blank.json" else "")
    (of_2023 / "Packed.json.gz").write_bytes(gzip.compress(b""))
    assert read_source("amazon_reviews", "--input", of_2023) == expected


def test_a_folder_of_empty_files_is_explained(tmp_path: Path) -> None:
    (tmp_path / "meta_X.json").touch()
    with pytest.raises(SourceError, match=r"found meta_X\.json \(empty\)"):
        AmazonReviewsSource(tmp_path)


PRODUCTS_2014 = [
    "{'asin': '0000001', 'description': \"It's soap\", 'title': u'Soap \\xe9', 'price': 9.99, "
    "'imUrl': 'http://x/1.jpg', 'related': {'also_bought': ['B2']}, 'salesRank': {'Beauty': 4}, "
    "'brand': 'Acme', 'categories': [['Beauty', 'Bath'], ['Other']]}",
    "{'asin': 'B2', 'title': 'Comb', 'categories': [[]], 'bought': None, 'new': True}",
]


def test_2014(tmp_path: Path) -> None:
    (tmp_path / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(to_lines(REVIEWS_2018)))
    (tmp_path / "meta_Beauty.json.gz").write_bytes(gzip.compress("\n".join(PRODUCTS_2014).encode()))
    reading = read_source("amazon_reviews", "--input", tmp_path)
    soap, comb = reading.items
    assert (soap.title, soap.text) == ("Soap é", "Soap é. It's soap.")
    assert soap.fields == {"brand": "Acme", "category": "Beauty > Bath", "image_url": "http://x/1.jpg"}
    assert (comb.title, comb.fields["category"]) == ("Comb", "")
    assert reading.interactions == [("A1", "0000001", 1514764800, 5.0), ("A2", "B2", 1514764801, 2.0)]
    assert build_twice("amazon_reviews", ["--input", tmp_path], tmp_path / "out").counts.items == 2
