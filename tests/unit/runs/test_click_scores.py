"""The scores of a visit, and its columns."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import transrec
from transrec.config import ConfigError
from transrec.data.examples.feature_rows import FeatureRows
from transrec.features.feature import ContextFeature, UserColumnFeature, UserIdFeature
from transrec.features.vocabulary import Values
from transrec.runs.click_scores import Visit, click_scores


@pytest.mark.parametrize("context", [{"position": 2}, {"position": "2"}])
def test_a_column_may_be_a_number_or_its_text(context: dict[str, Any]) -> None:
    features = {"position": ContextFeature(column="position"), "age": UserColumnFeature(column="age")}
    rows = FeatureRows(features, {name: Values(values=["1", "2"]) for name in features}, {})
    asked: list[Any] = []

    def scorer(questions: SimpleNamespace) -> Tensor:
        asked.append(questions.shown)
        return torch.arange(len(questions.shown.candidates)).double()[:, None]

    score = click_scores(scorer, rows, [3, 1], Visit(context=context, profile={"age": 1}), 9, 4, 1)
    assert score(2, 5).tolist() == [[0, 1, 2]]
    [shown] = asked
    assert shown.features["position"].tolist() == [[2]] * 3
    assert shown.features["age"].tolist() == [[1]] * 3
    assert shown.items[shown.candidates].tolist() == [2, 3, 4]
    assert (shown.items[shown.history] * shown.history_mask).tolist() == [[0, 0, 3, 1]] * 3


def scores_of(visit: Visit) -> Any:
    features = {"device": ContextFeature(column="device"), "age": UserColumnFeature(column="age_band")}
    rows = FeatureRows(features, {name: Values(values=["1"]) for name in features}, {})
    return click_scores(lambda _: torch.zeros(1, 1), rows, [1], visit, 1, 1, 1)


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
    click_scores(scorer, rows, [3], Visit(half, 0, {"position": half}, {"age": half}), 9, 4, 1)(1, 3)
    [shown] = asked
    assert {name: values.tolist() for name, values in shown.features.items()} == {
        "who": [[0]] * 2,
        "position": [[0]] * 2,
        "age": [[0]] * 2,
    }


@pytest.mark.parametrize("time", [-1, 1_573_000_000_000, 10**40])
def test_a_time_that_is_no_date_is_refused(time: int) -> None:
    with pytest.raises(ConfigError, match="give whole seconds from 1970 to the year 9999"):
        Visit(time=time)


def test_a_visit_is_part_of_the_public_interface() -> None:
    assert transrec.Visit is Visit
