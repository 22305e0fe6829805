from pathlib import Path
from typing import Any

import pytest
from untrained_runs import make

from transrec.config import ConfigError, validate
from transrec.experiment import Experiment


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path) -> Experiment:
    return make(tmp_path / "run", synthetic_shards)


def test_a_negative_seed_is_refused(tmp_path: Path, synthetic_shards: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        make(tmp_path / "run", synthetic_shards, seed=-1)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"monitor": "HR@5"}, "train.monitor 'HR@5' is not among evaluation.metrics"),
        ("data", {"stride": 6}, "data.stride 6 exceeds model.max_length 5"),
        ("data", {"windows": "last", "split": {"name": "temporal"}}, "data.split.name=temporal"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    experiment: Experiment, section: str, values: dict[str, Any], message: str
) -> None:
    resolved = experiment.model_dump(mode="json")
    with pytest.raises(ConfigError) as raised:
        validate(Experiment, resolved | {section: resolved[section] | values})
    assert message in str(raised.value)


def test_a_metric_without_a_better_direction_cannot_choose_weights(experiment: Experiment) -> None:
    resolved = experiment.model_dump(mode="json")
    asked = {"evaluation": {"metrics": ["HR@5", "novelty@5"]}, "train": resolved["train"] | {"monitor": "novelty@5"}}
    with pytest.raises(ConfigError, match=r"'novelty@5' cannot choose the best weights, because neither direction"):
        validate(Experiment, resolved | asked)


@pytest.mark.parametrize("train", [{"compile": True}, {"gradient_checkpointing": "passes"}])
def test_whole_passes_cannot_gather_the_weights_of_each_layer(experiment: Experiment, train: dict[str, Any]) -> None:
    resolved = experiment.model_dump(mode="json") | {"zero": {"stage": 3}}
    with pytest.raises(ConfigError, match=f"train.{next(iter(train))}=.*set zero.stage to 0, 1 or 2"):
        validate(Experiment, resolved | {"train": resolved["train"] | train})


def test_paths_of_the_home_folder_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = make(Path("~/run"), Path("~/shards"), init_from="~/source")
    assert (found.run_dir, found.data.path, found.init_from) == (
        tmp_path / "run",
        tmp_path / "shards",
        tmp_path / "source",
    )
