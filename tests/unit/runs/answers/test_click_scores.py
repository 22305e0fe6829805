"""The scores of a visit, and its columns."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import transrec
from transrec.config import ConfigError
from transrec.data.examples.feature_rows import FeatureRows
from transrec.features.feature import ContextFeature, UserColumnFeature, UserIdFeature
from transrec.features.vocabulary import Values
from transrec.runs.answers import click_scores as scoring
from transrec.runs.answers.click_scores import Request, Visit, click_scores


def asked_about(visit: Visit, items: list[int], history: list[int] | None = None) -> Request:
    return Request([1] if history is None else history, visit, np.array(items, np.int64), 9)


@pytest.mark.parametrize("context", [{"position": 2}, {"position": "2"}])
def test_a_column_may_be_a_number_or_its_text(context: dict[str, Any]) -> None:
    features = {"position": ContextFeature(column="position"), "age": UserColumnFeature(column="age")}
    rows = FeatureRows(features, {name: Values(values=["1", "2"]) for name in features}, {})
    asked: list[Any] = []

    def scorer(questions: SimpleNamespace) -> Tensor:
        asked.append(questions.shown)
        return torch.arange(len(questions.shown.candidates)).double()[:, None]

    request = asked_about(Visit(context=context, profile={"age": 1}), [2, 3, 4], [3, 1])
    [(of, logits)] = click_scores(scorer, rows, [request], 4, 1)
    assert of is request
    assert logits.tolist() == [0, 1, 2]
    [shown] = asked
    assert shown.features["position"].tolist() == [[2]] * 3
    assert shown.features["age"].tolist() == [[1]] * 3
    assert shown.items[shown.candidates].tolist() == [2, 3, 4]
    assert (shown.items[shown.history] * shown.history_mask).tolist() == [[0, 0, 3, 1]] * 3


def scores_of(visit: Visit) -> Any:
    features = {"device": ContextFeature(column="device"), "age": UserColumnFeature(column="age_band")}
    rows = FeatureRows(features, {name: Values(values=["1"]) for name in features}, {})
    return list(click_scores(lambda _: torch.zeros(1, 1), rows, [asked_about(visit, [1])], 1, 1))


@pytest.mark.parametrize(
    ("visit", "message"),
    [
        (Visit(context={"devcie": "tv"}), "the context has a column 'devcie', .* did you mean 'device'"),
        (Visit(profile={"ageband": "1"}), "the profile has a column 'ageband', .* did you mean 'age_band'"),
    ],
)
def test_a_misspelt_column_is_refused(visit: Visit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scores_of(visit)


def test_columns_that_the_model_does_not_read_may_be_given() -> None:
    scores_of(Visit(context={"device": None, "devices": "2", "page": "front"}, profile={"city": "x"}))


def test_names_that_are_no_characters_are_unknown() -> None:
    settings = {
        "who": UserIdFeature(of="user_id"),
        "position": ContextFeature(column="position"),
        "age": UserColumnFeature(column="age"),
    }
    rows = FeatureRows(settings, {name: Values(values=["?", "1"]) for name in settings}, {})
    asked: list[Any] = []

    def scorer(questions: SimpleNamespace) -> Tensor:
        asked.append(questions.shown)
        return torch.zeros(len(questions.shown.candidates), 1)

    half = "1\ud800"
    visit = Visit(half, 0, {"position": half}, {"age": half})
    list(click_scores(scorer, rows, [asked_about(visit, [1, 2], [3])], 4, 1))
    [shown] = asked
    assert {name: values.tolist() for name, values in shown.features.items()} == {
        "who": [[0]] * 2,
        "position": [[0]] * 2,
        "age": [[0]] * 2,
    }


@pytest.mark.parametrize("time", [-1, 1_573_000_000_000, 10**40])
def test_a_time_that_is_no_date_is_refused(time: int) -> None:
    with pytest.raises(ConfigError, match="give whole seconds since 1970, up to the year 9999"):
        Visit(time=time)


def test_a_visit_is_part_of_the_public_interface() -> None:
    assert transrec.Visit is Visit


def test_requests_share_a_pass_and_a_large_one_is_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PAIRS_AT_ONCE", 6)
    features = {"position": ContextFeature(column="position"), "age": UserColumnFeature(column="age", several="|")}
    rows = FeatureRows(features, {name: Values(values=["1", "2"]) for name in features}, {})
    passes: list[int] = []

    def scorer(questions: SimpleNamespace) -> Tensor:
        """A number for each pair that depends on the item, the history and the features."""
        shown = questions.shown
        passes.append(len(shown.candidates))
        history = (shown.items[shown.history] * shown.history_mask * torch.tensor([1, 2])).sum(1)
        of_visit = shown.features["position"].sum(1) + 10 * shown.features["age"].sum(1)
        return (100 * shown.items[shown.candidates] + 1000 * of_visit + history).double()[:, None]

    requests = [
        asked_about(Visit(context={"position": 1}, profile={"age": "1|2"}), [4, 7], [5, 6, 3]),
        asked_about(Visit(), [], [2]),
        asked_about(Visit(context={"position": 2}), [1, 2, 3], []),
        asked_about(Visit(), list(range(1, 14)), [9]),
        asked_about(Visit(profile={"age": "2"}), [8], [1, 1]),
    ]
    together = list(click_scores(scorer, rows, iter(requests), 2, 1))
    assert passes == [5, 6, 6, 1, 1]
    assert [request for request, _ in together] == requests
    for request, logits in together:
        [(_, alone)] = click_scores(scorer, rows, [request], 2, 1)
        assert logits.tolist() == alone.tolist()
        assert len(logits) == len(request.items)
    assert together[0][1].tolist() == [400 + 31000 + 12, 700 + 31000 + 12]
    assert together[4][1].tolist() == [800 + 20000 + 3]
