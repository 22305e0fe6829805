"""Which items a query may return, for a run that was never trained."""

import pytest
from portable_runs import untrained
from tiny_world import Tiny

from transrec.runs.recommender import Recommender

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
