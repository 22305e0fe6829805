"""Which items a query may return, for a run that was never trained."""

import re

import pytest
from portable_runs import untrained
from tiny_world import Tiny

from transrec import Query, Recommender
from transrec.config import ConfigError

HISTORY = ["item-3", "item-17", "item-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("queries") / "run", tiny)


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["item_id"] for row in rows]


def test_items_of_the_history_are_ranked_if_they_may_repeat(run: Recommender) -> None:
    every = run.recommend(HISTORY, 80, repeats=True)
    assert {*ids(every)} == {*run.catalogue.item_ids}
    assert [row for row in every if row["item_id"] not in HISTORY] == run.recommend(HISTORY, 80)


def test_candidates_are_ranked_even_if_they_are_in_the_history(run: Recommender) -> None:
    every = ids(run.recommend(HISTORY, 80, repeats=True))
    candidates = ["item-17", "item-5", "item-9", "item-3"]
    found = run.recommend(HISTORY, candidates=candidates)
    assert ids(found) == sorted(candidates, key=every.index)
    assert found == run.recommend(HISTORY, candidates=candidates, repeats=True)


def test_exclusions_and_filters_narrow_what_is_recommended(run: Recommender) -> None:
    every = run.recommend(HISTORY, 80)
    assert run.recommend(HISTORY, 80, exclude=[every[0]["item_id"], "gone"]) == every[1:]
    titles = [every[4]["title"], every[7]["title"]]
    expected = [row for row in every if row["title"] in titles and row != every[7]]
    assert run.recommend(HISTORY, 80, exclude=[every[7]["item_id"]], filters={"title": titles}) == expected
    assert run.similar("item-3", 80, exclude=["item-5"]) == [
        row for row in run.similar("item-3", 80) if row["item_id"] != "item-5"
    ]
    assert run.recommend_many([Query(HISTORY, 3, exclude=["item-5"], filters={"title": []})]) == [[]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exclude": "item-5"}, "`exclude` must be a list of item ids, found the string 'item-5'"),
        ({"exclude": [5]}, "item ids must be strings, found 5"),
        ({"filters": {"colour": ["red"]}}, "the items have no column 'colour': choose from title, text, topic"),
        ({"filters": {"title": "red"}}, "filters: give a list of values, as in {'title': ['red']}"),
        ({"filters": ["title"]}, "filters: give each column a list of values, found ['title']"),
    ],
)
def test_what_narrows_nothing_is_refused(run: Recommender, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run.recommend(HISTORY, **given)
    with pytest.raises(ConfigError, match=re.escape(message)):
        run.similar("item-3", **given)
