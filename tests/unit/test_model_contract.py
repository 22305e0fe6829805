"""Every room takes a model of another shape: a toy that ranks shown items, with two heads and a tower of its own."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from toy_ranking import HEADS, JUDGED, Accuracy, ImpressionBatch, Ranker, RankerConfig, ToyExperiment

from transrec.adaptation.lora import LoRAConfig
from transrec.adaptation.selective import BitFitConfig, FullConfig, LayerNormConfig
from transrec.config import ConfigError, validate
from transrec.data.batch import ItemContent, to_device
from transrec.distributed.world import World
from transrec.evaluation.evaluator import KINDS, EvaluationConfig, Evaluator
from transrec.evaluation.metrics import METRICS
from transrec.nn.parameter_groups import parameter_groups
from transrec.runs.build import build
from transrec.runs.rebuild import rebuild
from transrec.runs.train_and_test import build_stream, run
from transrec.training.cost import count_parameters, measure
from transrec.training.optim import OptimizerConfig, build_optimizer, peak_rates
from transrec.training.prefix_cache import PrefixCacheConfig, keep_prefixes

CPU = torch.device("cpu")
LORA = LoRAConfig(towers=["interest"], sites=["interest_key"], rank={"interest": 2}, also_train=["head"])


@pytest.fixture
def model() -> Ranker:
    torch.manual_seed(0)
    return RankerConfig().build(num_items=60)


@pytest.fixture
def batch() -> ImpressionBatch:
    counts = dict.fromkeys(HEADS, 3)
    return ImpressionBatch(ItemContent(torch.arange(1, 4), {}), torch.tensor([0, 2, 1]), torch.ones(3, 2), counts)


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch) -> ToyExperiment:
    monkeypatch.setitem(KINDS, "impressions", JUDGED)
    monkeypatch.setitem(METRICS, "click_accuracy", Accuracy())
    values: dict[str, Any] = {
        "run_dir": str(tmp_path / "run"),
        "data": {
            "path": str(synthetic_shards),
            "cache": str(tmp_path),
            "workers": 0,
            "examples": {"name": "impressions"},
        },
        "model": {"name": "toy_ranker"},
        "optimizer": {"lr": {"head": 0.05}},
        "train": {"steps": 40, "batch_size": 64, "evaluate_every": 20, "monitor": "click_accuracy", "log_every": 1},
        "evaluation": {"metrics": ["click_accuracy"]},
    }
    return validate(ToyExperiment, values)


def test_the_union_chooses_it_by_name(experiment: ToyExperiment) -> None:
    assert isinstance(experiment.model, RankerConfig)


def test_its_sampling_is_known_before_it_exists(experiment: ToyExperiment) -> None:
    assert experiment.model.sampling.negatives == 0


def test_it_gives_losses_by_name(model: Ranker, batch: ImpressionBatch) -> None:
    assert list(model(batch)) == list(HEADS)


def test_its_batch_is_moved(batch: ImpressionBatch) -> None:
    moved = to_device(batch, torch.device("meta"))
    assert {moved.labels.device.type, moved.candidate.device.type, moved.content.items.device.type} == {"meta"}
    assert moved.counts == batch.counts


def test_its_parameters_have_groups(model: Ranker) -> None:
    LORA.apply(model)
    groups = {group: len(members) for group, members in parameter_groups(model).items() if members}
    assert groups == {"adapter": 2, "head": 7}


def test_everything_trains(model: Ranker) -> None:
    FullConfig().apply(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_biases_of_its_tower_train(model: Ranker) -> None:
    BitFitConfig(towers=["interest"]).apply(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["interest.key.bias"]


def test_a_tower_that_it_lacks_is_named(model: Ranker) -> None:
    with pytest.raises(ConfigError, match=r"the model has no item tower: choose among .*interest"):
        LayerNormConfig(towers=["item"]).apply(model)


def test_its_tower_takes_lora_at_the_rank_of_its_group(model: Ranker) -> None:
    rates = LORA.apply(model)
    assert model.interest.key.adapter.rank == 2
    assert set(rates.values()) == {1e-3}


def test_a_rank_for_a_group_that_it_lacks_is_refused(model: Ranker) -> None:
    with pytest.raises(ConfigError, match=r"`rank.intrest`: no such group of towers"):
        LORA.model_copy(update={"rank": type(LORA.rank)(intrest=3)}).apply(model)


def test_its_optimizer_has_the_rates(model: Ranker) -> None:
    optimizer = build_optimizer(OptimizerConfig(), model, LORA.apply(model), offload=False)
    assert peak_rates(optimizer.param_groups) == {"adapter_0.001": 1e-3, "head": 1e-4}


def test_its_parameters_are_counted_by_tower(model: Ranker) -> None:
    assert {name: counts["total"] for name, counts in count_parameters(model)["towers"].items()} == {
        "head": 61 * 8 + 2 * 17,
        "interest": 72,
    }


def test_its_operations_are_counted(model: Ranker, batch: ImpressionBatch) -> None:
    cost = measure(model, [batch], CPU, autocast=False)
    assert cost is not None
    assert cost.towers["interest"] == 2 * 3 * 8 * 8
    assert cost.as_json()["work"]["positions"] == 3


def test_it_has_no_prefix_to_keep(model: Ranker) -> None:
    keep_prefixes(PrefixCacheConfig(), model, None, Path(), "fp32", World())  # type: ignore[arg-type]


def test_its_stream_is_a_function_of_the_step(experiment: ToyExperiment) -> None:
    parts = build(experiment, World())
    stream = build_stream(experiment, parts.examples, parts.store, World())
    (one,), (again,) = stream[3], stream[3]
    assert one.counts == {"click": one.size, "buy": one.size}
    assert one.digest == again.digest != stream[4][0].digest


def test_its_answers_are_measured_by_a_metric_of_their_scores(experiment: ToyExperiment) -> None:
    parts = build(experiment, World())
    evaluator = Evaluator(experiment.evaluation, parts.examples, World())
    assert 0 < evaluator.model(parts.model, parts.store, "valid")["click_accuracy"].value < 1


def test_a_metric_of_ranks_is_refused(experiment: ToyExperiment) -> None:
    examples = experiment.data.scan(1)
    with pytest.raises(
        ConfigError, match="HR@10 needs the readings rank, but these examples provide only user, score, label"
    ):
        Evaluator(EvaluationConfig(metrics=["HR@10"]), examples, World())


@pytest.mark.parametrize("adapted", [False, True])
def test_it_is_trained_exported_tested_and_rebuilt(experiment: ToyExperiment, adapted: bool) -> None:
    if adapted:
        experiment = experiment.model_copy(update={"adaptation": LORA})
    summary = run(experiment)
    assert summary["test"]["click_accuracy"] > 0.95
    assert summary["learning_rates"] == ({"adapter_0.001": 1e-3} if adapted else {}) | {"head": 0.05}
    steps = [json.loads(line) for line in (experiment.run_dir / "metrics.jsonl").read_text().split("\n") if line]
    losses = [record["losses"] for record in steps if record["kind"] == "step"]
    assert [*losses[0]] == [*HEADS]
    assert all(losses[-1][head] < losses[0][head] for head in HEADS)
    assert pq.read_table(experiment.run_dir / "test_users.parquet").column_names == ["user_id", "score", "label"]
    model = rebuild(experiment, experiment.run_dir / "export", 60)
    examples = experiment.data.scan(1)
    estimates = Evaluator(experiment.evaluation, examples, World()).model(
        model, build(experiment, World()).store, "test"
    )
    assert estimates["click_accuracy"].value == summary["test"]["click_accuracy"]
