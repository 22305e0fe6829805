import gzip
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.source import SourceError

GAMES = (
    "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Indie'], u'app_name': u'Lost Summoner Kitty', "
    "u'title': u'Lost', u'tags': [u'Strategy'], u'price': 4.99, u'early_access': False, u'id': u'761140', "
    "u'developer': u'Kotoshiro'}\n"
    "{u'app_name': u'Ironbound', u'id': u'643980', u'tags': [u'Card Game']}\n"
    "{u'app_name': u'Nameless'}\n"
)
REVIEWS = (
    "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'643980', u'page_order': 0, "
    "u'date': u'2017-12-17', u'text': u'It\\'s fun', u'early_access': False, u'page': 1}\n"
    "{u'username': u'\\u2655', u'product_id': u'761140', u'date': u'2017-12-18', u'text': u''}\n"
)


@pytest.mark.parametrize("name", ["steam_new.json.gz", "steam_reviews.json"])
def test_literals_of_python(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "steam"
    folder.mkdir()
    (folder / "steam_games.json").write_text(GAMES)
    (folder / name).write_bytes(gzip.compress(REVIEWS.encode()) if name.endswith(".gz") else REVIEWS.encode())
    reading = read_source("steam", "--input", folder)
    kitty, ironbound = reading.items
    assert (kitty.item_id, kitty.title) == ("761140", "Lost Summoner Kitty")
    assert kitty.text == "Lost Summoner Kitty. Action, Indie. Strategy."
    assert kitty.fields == {"genres": "Action, Indie", "tags": "Strategy", "developer": "Kotoshiro"}
    assert ironbound.text == "Ironbound. Card Game."
    assert [row[:3] for row in reading.interactions] == [
        ("Chaos Syren", "643980", 1513468800), ("♕", "761140", 1513555200)
    ]  # fmt: skip
    assert reading.interactions[1][3] is None
    assert reading.reasons() == [("steam_games.json", 3, "empty_id")]
    index = build_twice("steam", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 2, 2)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "steam_games.json").touch()
    with pytest.raises(SourceError, match=r"must hold one steam_new\.json\* or steam_reviews\.json\*, found none"):
        make_source("steam", "--input", tmp_path)
