"""What is known when a user asks for items."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import transrec
from transrec.data.examples.feature_rows import FeatureRows
from transrec.features.feature import ContextFeature, UserColumnFeature
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


def test_a_visit_is_part_of_the_public_interface() -> None:
    assert transrec.Visit is Visit
