from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained_runs import HOULSBY, assert_same_weights, export_run, make

from transrec import weights
from transrec.config import ConfigError
from transrec.data.examples.histories import HistoryExamples
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build, check_frozen
from transrec.training.cost import count_parameters


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path) -> Experiment:
    return make(tmp_path / "run", synthetic_shards)


def test_build_is_a_function_of_the_seed(experiment: Experiment) -> None:
    one, same = (build(experiment, World()).model for _ in range(2))
    assert_same_weights(one, same)
    other = build(experiment.model_copy(update={"seed": 1}), World()).model
    assert not torch.equal(one.item_encoder.embedding.weight, other.item_encoder.embedding.weight)


def test_build_gives_data_model_and_the_hash_of_what_is_frozen(experiment: Experiment) -> None:
    parts = build(experiment, World())
    assert isinstance(parts.examples, HistoryExamples)
    assert parts.examples.max_length == experiment.model.max_length
    assert parts.model.item_encoder.embedding.weight.shape == (61, 8)
    assert parts.base == weights.base_hash(parts.model)


def test_source_weights_are_loaded_before_adapters_are_attached(tmp_path: Path, synthetic_shards: Path) -> None:
    source = export_run(make(tmp_path / "source", synthetic_shards))
    transfer = make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "source"), adaptation=HOULSBY, seed=5)
    model = build(transfer, World()).model
    base = {name: tensor for name, tensor in model.state_dict().items() if ".adapter." not in name}
    assert base.keys() == source.state_dict().keys()
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in base.items())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == model.state_dict().keys() - base.keys()


@pytest.mark.parametrize("adaptation", [HOULSBY, HOULSBY | {"also_train": ["layer_norm"]}], ids=["alone", "norms"])
def test_freezing_weights_that_nothing_trained_is_refused(
    tmp_path: Path, synthetic_shards: Path, adaptation: dict[str, Any]
) -> None:
    random = make(tmp_path / "run", synthetic_shards, adaptation=adaptation)
    with pytest.raises(ConfigError, match="init_from"):
        build(random, World())
    transferred = make(tmp_path / "run", synthetic_shards, adaptation=adaptation, init_from="somewhere")
    model = transferred.model.build(60)
    transferred.adaptation.apply(model)
    check_frozen(transferred, model)
    build(make(tmp_path / "run", synthetic_shards, adaptation=adaptation | {"also_train": ["head"]}), World())


@pytest.mark.parametrize(
    ("adaptation", "accepted"),
    [
        (HOULSBY, False),
        (HOULSBY | {"also_train": ["head"]}, True),  # fresh LayerNorms are not random
        ([HOULSBY, {"name": "head_only"}], True),
        ({"name": "layer_norm"}, False),
        ([{"name": "layer_norm"}, {"name": "head_only"}], True),
    ],
)
def test_what_is_left_fresh_must_not_be_frozen(
    tmp_path: Path, synthetic_shards: Path, adaptation: Any, accepted: bool
) -> None:
    left = {"init_from": "somewhere", "init_except": ["user_encoder"]}
    experiment = make(tmp_path / "run", synthetic_shards, adaptation=adaptation, **left)
    model = experiment.model.build(60)
    experiment.adaptation.apply(model)
    with nullcontext() if accepted else pytest.raises(ConfigError, match=r"also_train: \[head\].*name: head_only"):
        check_frozen(experiment, model)


def test_parameters_are_counted_by_group(tmp_path: Path, synthetic_shards: Path) -> None:
    model = build(
        make(tmp_path / "run", synthetic_shards, adaptation=HOULSBY | {"also_train": ["head"]}), World()
    ).model
    counted = count_parameters(model)
    assert counted["total"] == sum(p.numel() for p in model.parameters())
    assert counted["trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    # Down 8 → 3 and up 3 → 8, with biases.
    assert counted["groups"]["adapter"] == {"total": 59, "trainable": 59}
    assert counted["groups"]["layer_norm"]["trainable"] == 0 < counted["groups"]["layer_norm"]["total"]
