"""Baselines of histories: what they score, what they count once, and what never grows with the catalogue."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from transrec.config import ConfigError, validate
from transrec.data.examples import DataConfig
from transrec.data.examples.evidence import by_column
from transrec.data.examples.next_item import NextItemExamples
from transrec.distributed.world import World
from transrec.evaluation.evaluator import EvaluationConfig
from transrec.evidence.item_to_item import ItemToItemConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.protocols import ModelSettings
from transrec.runs.baselines import Untrained, baselines, blended
from transrec.runs.evidence import kept_arrays

POPULARITY = torch.tensor([0.0, 2, 3, 1, 2, 0])


def asked(*histories: list[int]) -> SimpleNamespace:
    return SimpleNamespace(history=torch.tensor(histories))


def test_what_is_popular_is_the_same_for_everybody() -> None:
    score = Untrained(POPULARITY)(asked([0, 1], [2, 3]))
    assert score(1, 6).tolist() == [[2, 3, 1, 2, 0]] * 2


def test_counts_are_added_to_what_is_the_same_for_everybody() -> None:
    def scores(histories: Any) -> sparse.csr_array:
        assert [history.tolist() for history in histories] == [[2, 1], [4]]
        return sparse.csr_array(np.array([[0, 0, 5, 0, 0, 0], [0, 0, 0, 0, 0, 7.0]]))

    score = Untrained(POPULARITY / 4, scores)(asked([2, 1], [0, 4]))
    assert score(1, 6).tolist() == [[0.5, 5.75, 0.25, 0.5, 0], [0.5, 0.75, 0.25, 0.5, 7]]
    assert torch.equal(torch.cat([score(1, 3), score(3, 6)], dim=1), score(1, 6))


def test_a_blend_adds_scores_that_are_relative_to_the_best_of_the_user() -> None:
    one, other = (sparse.csr_array(np.array(rows)) for rows in ([[0, 4.0, 2], [0, 0, 0]], [[0, 0.0, 9], [0, 3, 0]]))
    found = blended(lambda _: one, lambda _: other, 0.25)([])
    np.testing.assert_array_equal(found.toarray(), [[0, 0.25, 0.125 + 0.75], [0, 0.75, 0]])


# Whole


@pytest.fixture
def examples(synthetic_shards: Path, tmp_path: Path) -> NextItemExamples:
    return scanned(synthetic_shards, tmp_path)


def scanned(shards: Path, cache: Path, **settings: Any) -> NextItemExamples:
    data = validate(DataConfig, {"path": str(shards), "cache": str(cache / "cache"), **settings})
    found = data.scan(8)
    assert isinstance(found, NextItemExamples)
    return found


def of_ids() -> ModelSettings:
    parts = {"item_encoder": {"name": "id_embedding"}, "user_encoder": {"name": "sasrec"}}
    return validate(SequentialRecommenderConfig, parts | {"objective": {"name": "next_item"}, "max_length": 8})


def measured(examples: NextItemExamples, names: list[str] | None = None, world: World | None = None) -> Any:
    config = EvaluationConfig(baselines=names)  # type: ignore[arg-type]  # names are checked as they are validated
    return baselines(config, of_ids(), examples, "test", world or World())


def test_only_those_asked_for_are_measured(examples: NextItemExamples) -> None:
    every = measured(examples)
    assert [*every] == ["most_popular", "item_to_item", "transitions", "co_occurrence"]
    assert measured(examples, []) == {}
    (name, one), *rest = measured(examples, ["transitions"]).items()
    assert (name, rest) == ("transitions", [])
    assert one.estimates == every["transitions"].estimates


def test_ranks_of_most_popular_are_those_of_counting(examples: NextItemExamples) -> None:
    ranks = iter(measured(examples, ["most_popular"])["most_popular"].columns["rank"].tolist())
    counts = examples.popularity
    for question in examples.questions("test"):
        assert question is not None
        for history, target in zip(question.history.tolist(), question.targets.tolist(), strict=True):
            others = set(examples.candidates.tolist()) - {*history, target}
            assert next(ranks) == 1 + sum(counts[item] >= counts[target] for item in others)


def test_what_is_counted_is_counted_once_for_the_same_histories(
    examples: NextItemExamples, synthetic_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    work = ItemToItemConfig.work

    def counting(self: ItemToItemConfig, sources: Any, interim: Any) -> Any:
        counted.append(self)
        return work(self, sources, interim)

    monkeypatch.setattr(ItemToItemConfig, "work", counting)
    first, again = (measured(examples, ["item_to_item"])["item_to_item"] for _ in range(2))
    assert len(counted) == 1
    assert not [*examples.config.cache.glob("interim-*")], "the pairs are removed"
    assert torch.equal(first.columns["rank"], again.columns["rank"])
    for settings, fills in (({"min_interactions": 7}, 2), ({"split": {"name": "temporal"}}, 3), ({"workers": 3}, 3)):
        measured(scanned(synthetic_shards, tmp_path, **settings), ["item_to_item"])
        assert len(counted) == fills, settings


def test_arrays_are_kept_by_name(examples: NextItemExamples) -> None:
    calls = []

    def count() -> dict[str, Any]:
        calls.append(1)
        return {"a": np.arange(3), "b": np.ones((2, 2))}

    for name, expected in (("one", 1), ("one", 1), ("two", 2)):
        kept = kept_arrays(name, count, examples, World())
        assert kept["a"].tolist() == [0, 1, 2]
        assert kept["b"].shape == (2, 2)
        assert len(calls) == expected


def test_evidence_that_cannot_be_made_leaves_the_others(
    examples: NextItemExamples, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(self: Any, sources: Any, interim: Any) -> None:
        raise ConfigError("too many items to compare")

    monkeypatch.setattr("transrec.evidence.pair_counts.PairCountsConfig.work", work)
    assert [*measured(examples)] == ["most_popular", "item_to_item"]
    assert "transrec: skipping the baseline transitions: too many items to compare" in capsys.readouterr().err


def test_lookups_of_a_block_of_users_do_not_grow_with_the_catalogue() -> None:
    """Scores by column, without a pass over the columns, of which there are more than any machine can hold."""
    scores = sparse.csr_array((np.ones(3), np.array([2**59, 5, 7]), [0, 2, 3]), shape=(2, 2**60))
    found = by_column(scores)
    assert (found.rows.tolist(), found.columns.tolist()) == ([0, 1, 0], [5, 7, 2**59])
