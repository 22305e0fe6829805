from collections.abc import Callable
from pathlib import Path

import pytest
from source_reading import build_twice, read_source

from data_tools.source import SourceError
from data_tools.sources.hm import HMSource

ARTICLES = (
    "article_id,product_code,prod_name,product_type_name,colour_group_name,department_name,detail_desc\n"
    '0108775015,0108775,Strap top,Vest top,Black,Jersey Basic,"Jersey top with narrow shoulder straps, in cotton."\n'
    '0108775044,0108775,"Strap ""top""",Vest top,White,Jersey Basic,\n'
    '0110065001,0110065,OP T-shirt,Bra,Black,Clean Lingerie,"Microfibre\nT-shirt bra"\n'
)
TRANSACTIONS = (
    "t_dat,customer_id,article_id,price,sales_channel_id\n"
    "2018-09-20,c1,0108775044,0.0508,2\n"
    "2018-09-20,c1,0108775015,0.0305,2\n"
    "2018-09-21,c2,0110065001,0.0152,1\n"
)
CUSTOMERS = (
    "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code\n"
    "c1,,,ACTIVE,NONE,49.0,52043\nc2,1.0,1.0,ACTIVE,Regularly,25.0,2973a\n"
)


@pytest.fixture
def folder(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    folder = tmp_path / "hm"
    (folder / "images" / "010").mkdir(parents=True)
    (folder / "images" / "010" / "0108775015.jpg").write_bytes(image_bytes())
    (folder / "images" / "010" / "0108775044.jpg").write_bytes(image_bytes())
    for name, text in (("articles", ARTICLES), ("transactions_train", TRANSACTIONS), ("customers", CUSTOMERS)):
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_articles(folder: Path) -> None:
    strap, quoted, shirt = read_source("hm", "--input", folder).items
    assert (strap.line, strap.item_id, strap.title) == (2, "0108775015", "Strap top")
    assert strap.text == "Strap top. Vest top. Black. Jersey Basic. Jersey top with narrow shoulder straps, in cotton."
    assert strap.fields["product_code"] == "0108775"
    assert strap.image == folder / "images" / "010" / "0108775015.jpg"
    assert (quoted.title, quoted.text) == ('Strap "top"', 'Strap "top". Vest top. White. Jersey Basic.')
    assert (shirt.line, shirt.fields["detail_desc"]) == (4, "Microfibre\nT-shirt bra")


def test_transactions_are_at_the_start_of_their_day_in_the_order_of_the_file(folder: Path) -> None:
    assert read_source("hm", "--input", folder).interactions == [
        ("c1", "0108775044", 1537401600, None),
        ("c1", "0108775015", 1537401600, None),
        ("c2", "0110065001", 1537488000, None),
    ]


def test_customers(folder: Path) -> None:
    first, second = read_source("hm", "--input", folder).users
    assert (first["user_id"], first["FN"], first["age"]) == ("c1", "", "49.0")
    assert second["fashion_news_frequency"] == "Regularly"


def test_rejects(folder: Path) -> None:
    with (folder / "articles.csv").open("a") as file:
        file.write('0110065002,0110065,"open\n0110065003,too,few\n,0,T,,,,\n')
    with (folder / "transactions_train.csv").open("a") as file:
        file.write("20/09/2018,c1,0108775015,0.1,2\n2018-09-22,,0108775015,0.1,2\n")
    assert read_source("hm", "--input", folder).reasons() == [
        ("articles.csv", 6, "bad_quoting"),
        ("articles.csv", 7, "wrong_field_count"),
        ("articles.csv", 8, "empty_id"),
        ("transactions_train.csv", 5, "bad_timestamp"),
        ("transactions_train.csv", 6, "empty_id"),
    ]


def test_build_with_a_missing_image(folder: Path, tmp_path: Path) -> None:
    index = build_twice("hm", ["--input", folder], tmp_path)
    assert index.counts.model_dump() == {
        "users": 2, "items": 3, "interactions": 3, "impressions": 0, "images": 2,
        "rejects": {"missing_image": 1}, "dropped": {}, "cleaned": {}
    }  # fmt: skip
    assert "age" in index.user_columns


def test_without_the_folder_of_images_none_is_missed(folder: Path) -> None:
    (folder / "images").rename(folder / "elsewhere")
    assert [item.image for item in read_source("hm", "--input", folder).items] == [None] * 3


def test_missing_file_or_column(folder: Path) -> None:
    (folder / "articles.csv").write_text("article_id,prod_name\n")
    with pytest.raises(SourceError, match=r"articles\.csv: no column colour_group_name, department_name, detail_desc"):
        HMSource(folder)
    (folder / "articles.csv").unlink()
    with pytest.raises(SourceError, match=r"articles\.csv is missing"):
        HMSource(folder)
