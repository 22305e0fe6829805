"""Metrics of a baseline on given shards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from transrec.config import ConfigError, validate
from transrec.data.examples import DataConfig
from transrec.distributed.world import World
from transrec.evaluation.evaluator import EvaluationConfig, Evaluator
from transrec.evaluation.metric import MeanMetric
from transrec.evaluation.metrics import METRICS
from transrec.protocols import Examples, Score


@pytest.fixture
def examples(build_shards, tmp_path: Path) -> Examples:
    """The last item tests: 6 of one user, 1 of the other."""
    folder = build_shards({"up": [1, 2, 3, 4, 5, 6], "down": [6, 5, 4, 3, 2, 1]}, n_items=6)
    return validate(DataConfig, {"path": str(folder), "cache": str(tmp_path)}).scan(4)


class Counting:
    """The higher the index, the higher the score; keeps how often it was asked for scores."""

    calls = 0

    def __call__(self, question: Any) -> Score:
        def score(a: int, b: int) -> Tensor:
            self.calls += 1
            return torch.arange(a, b).float().expand(len(question.history), -1)

        return score


def evaluator(examples: Examples, *metrics: str) -> Evaluator:
    return Evaluator(EvaluationConfig(metrics=list(metrics)), examples, World())


def test_metrics_come_in_the_order_they_are_asked_for(examples: Examples) -> None:
    found = evaluator(examples, "accuracy", "HR@1", "macro_F1").baseline(Counting(), "test").estimates
    assert list(found) == ["accuracy", "HR@1", "macro_F1"]
    assert found["accuracy"].value == 1.0  # of what is left to rank, that is the one target
    assert found["macro_F1"].value == pytest.approx((2 / 3 + 0) / 2)  # 6 is called for both


def test_a_baseline_has_no_loss_for_its_scores_are_no_logits(examples: Examples) -> None:
    assert list(evaluator(examples, "HR@1", "loss").baseline(Counting(), "test").estimates) == ["HR@1"]


def test_scores_are_asked_for_once_for_each_reading(examples: Examples) -> None:
    for metrics, calls in ((["HR@1", "NDCG@5", "accuracy"], 1), (["HR@1", "macro_F1"], 2), (["macro_F1"], 2)):
        baseline = Counting()
        evaluator(examples, *metrics).baseline(baseline, "test")
        assert baseline.calls == calls, metrics


class Revenue(MeanMetric):
    name = "revenue"
    reads = ("price",)

    def values(self, *columns: Tensor) -> Tensor:
        return columns[0]


def test_a_metric_of_another_kind_of_question_is_refused(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "revenue", Revenue())
    with pytest.raises(ConfigError, match=r"revenue needs the readings price, .* provide only user, target, rank"):
        evaluator(examples, "revenue")


def test_a_baseline_of_another_kind_of_example_is_refused(examples: Examples) -> None:
    with pytest.raises(ConfigError, match=r"item_rate is not a baseline of next_item: choose from most_popular, item"):
        Evaluator(EvaluationConfig(baselines=["item_rate"]), examples, World())


@pytest.mark.parametrize("asked", [None, [], ["blend", "most_popular"]])
def test_baselines_are_measured_in_one_order(examples: Examples, asked: Any) -> None:
    found = Evaluator(EvaluationConfig(baselines=asked), examples, World()).baselines
    every = ("most_popular", "item_to_item", "transitions", "co_occurrence", "content_similarity", "blend")
    assert found == tuple(name for name in every if asked is None or name in asked)


def test_unknown_metrics_are_refused_by_the_configuration() -> None:
    with pytest.raises(ValueError, match="'MAP' is not one of HR, NDCG, MRR"):
        EvaluationConfig(metrics=["MAP@10"])


def test_every_field_of_the_configuration_is_described() -> None:
    assert all(field.description for field in EvaluationConfig.model_fields.values())
