import json
from pathlib import Path

import pytest
from untrained_runs import make

from transrec.config import ConfigError
from transrec.data.shards.schema import ShardIndex
from transrec.experiment import Experiment
from transrec.runs.export import describe, read_export


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path) -> Experiment:
    return make(tmp_path / "run", synthetic_shards)


def test_the_export_says_which_catalogue_it_was_trained_on(experiment: Experiment, synthetic_shards: Path) -> None:
    index = ShardIndex.load(synthetic_shards)
    described = describe(experiment, experiment.data.scan(5))
    assert described.num_items == 60
    assert described.item_ids_sha256 == index.item_ids_sha256
    assert described.model == experiment.model.model_dump(mode="json")


def test_an_export_of_format_1_is_read(tmp_path: Path) -> None:
    """Version 0.1.0 wrote it, without a format."""
    written = {
        "architecture": "transrec",
        "transrec_version": "0.1.0",
        "num_items": 60,
        "item_ids_sha256": "f00d",
        "model": {"name": "sequential_recommender"},
        "adaptation": {"name": "full"},
        "seed": 0,
        "init_from": None,
        "init_except": [],
        "task": {"name": "profile", "column": "age"},
        "targets": ["old", "young"],
        "evaluation": {"metrics": ["accuracy"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    described = read_export(tmp_path)
    assert (described.format, described.num_items, described.targets) == (1, 60, ["old", "young"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"format": 3}', "has format 3, but this version reads formats up to 2"),
        ("[]", "has format None"),
        ("{}", "is not the description of an export"),
    ],
)
def test_other_descriptions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_export(tmp_path)


def test_a_missing_export_is_explained_by_what_is_there(tmp_path: Path) -> None:
    def told(export: Path) -> str:
        with pytest.raises(ConfigError) as raised:
            read_export(export)
        return str(raised.value)

    run_dir = tmp_path / "run"
    assert told(run_dir / "export").startswith(f"{run_dir} does not exist: give the folder to which it was moved")
    run_dir.mkdir()
    assert told(run_dir / "export").startswith(f"{run_dir} has no export yet: train the run until its first validation")
    (run_dir / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert told(run_dir / "export").startswith(f"{run_dir} has no export: start the training command again")
    assert told(run_dir).startswith(f"{run_dir} is neither a run folder nor an export")
