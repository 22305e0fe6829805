"""Metrics of a baseline on given shards."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_tools.build import build
from data_tools.sources.tables import TablesSource
from transrec.config import ConfigError, validate
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.distributed.world import World
from transrec.evaluation.evaluator import KINDS, EvaluationConfig, Evaluator, UserResults
from transrec.evaluation.metric import MeanMetric
from transrec.evaluation.metrics import METRICS, METRICS_AT_K
from transrec.evaluation.ranking_metrics import calibration_error
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


def test_the_novelty_of_recommendations(examples: Examples) -> None:
    """Nothing is left to recommend but the target of each user: items 6 and 1, which are equally popular."""
    share = examples.popularity[1] / examples.popularity.sum()  # type: ignore[attr-defined]
    found = evaluator(examples, "novelty@3").baseline(Counting(), "test").estimates
    assert found["novelty@3"].value == pytest.approx(-math.log2(share))


def test_the_targets_of_a_task_have_no_novelty() -> None:
    assert not KINDS["task"].readings_at_k


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


def test_the_description_of_the_metrics_names_them_all() -> None:
    description = EvaluationConfig.model_fields["metrics"].description or ""
    assert {*METRICS, *(f"{family}@K" for family in METRICS_AT_K)} <= {*re.findall(r"[\w@]+", description)}


def test_every_field_of_the_configuration_is_described() -> None:
    assert all(field.description for field in EvaluationConfig.model_fields.values())


# Clicks and other responses

LABELS = [(1, "1"), (0, "0"), (1, ""), (0, "1"), (1, "0"), (0, "1")]  # whether clicked, and whether liked, if known


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Three impressions of the training, one of the validation and six of the test, of six users."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "items.tsv").write_text("item_id\ttitle\n" + "".join(f"i{n}\tItem {n}\n" for n in range(6)))
    interactions = "".join(f"u{n}\ti{n}\t50\n" for n in range(6))
    (raw / "interactions.tsv").write_text(f"user_id\titem_id\ttimestamp\n{interactions}")
    rows = "".join(f"u{n}\ti{n}\t{100 + n}\t{n % 2}\t0\n" for n in range(3)) + "u0\ti1\t150\t1\t1\n"
    rows += "".join(f"u{n}\ti{n}\t{200 + n}\t{click}\t{like}\n" for n, (click, like) in enumerate(LABELS))
    (raw / "impressions.tsv").write_text(f"user_id\titem_id\ttimestamp\tlabel_click\tlabel_like\n{rows}")
    build(TablesSource(raw), "tables", tmp_path / "shards")
    return tmp_path / "shards"


class TwoHeads(nn.Module):
    """The logit of a click of item n is n, that of a like is -n."""

    def encode_items(self, content: Any) -> Tensor:
        return torch.zeros(len(content.items), 1)

    def scorer(self, items: Tensor) -> Callable[[Any], Tensor]:
        return lambda asked: torch.stack([asked.items, -asked.items], 1).float()


def measured(path: Path, tmp_path: Path, *metrics: str) -> tuple[Evaluator, UserResults]:
    kind = {"name": "impressions", "exposures": {"name": "shown"}, "heads": ["click", "like"]}
    split = {"name": "temporal", "valid_from": 0.35, "test_from": 0.5}
    values = {"path": str(path), "cache": str(tmp_path), "examples": kind, "split": split, "min_interactions": 1}
    examples = validate(DataConfig, values).scan(4)
    found = evaluator(examples, *metrics)
    return found, found.users(TwoHeads(), ItemStore(examples.folder, {}, tmp_path), "test")  # type: ignore[arg-type]


def test_every_head_has_bins_of_the_impressions_where_it_was_observed(shown: Path, tmp_path: Path) -> None:
    ours, results = measured(shown, tmp_path, "AUC", "ECE")
    found = ours.calibration(results)
    items = torch.arange(1, 7).double()
    clicks, likes = found["click"], found["like"]
    assert [b.predicted for b in clicks] == pytest.approx(torch.sigmoid(items).tolist())
    assert [b.observed for b in clicks] == [click for click, _ in LABELS]
    assert calibration_error(clicks) == pytest.approx(results.estimates["ECE"].value, abs=1e-12)
    known = [n for n, (_, like) in enumerate(LABELS) if like]
    assert [b.predicted for b in likes] == pytest.approx(sorted(torch.sigmoid(-items[known]).tolist()))
    assert [b.observed for b in likes] == [int(LABELS[n][1]) for n in reversed(known)]


def test_there_are_no_bins_if_the_calibration_error_is_not_asked_for(
    shown: Path, tmp_path: Path, examples: Examples
) -> None:
    ours, results = measured(shown, tmp_path, "AUC")
    assert ours.calibration(results) == {}
    assert "label_1" not in results.columns
    ranking = evaluator(examples, "HR@1")
    assert ranking.calibration(ranking.baseline(Counting(), "test")) == {}


def test_impressions_are_grouped_by_their_items_and_users(shown: Path, tmp_path: Path) -> None:
    """The first three users and items train."""
    ours, results = measured(shown, tmp_path, "AUC")
    sizes = {by: {name: group.questions for name, group in of.items()} for by, of in ours.groups(results).items()}
    assert sizes["by_user"] == {"known": 3, "new": 3}
    assert sizes["by_popularity"]["cold"] == 3
