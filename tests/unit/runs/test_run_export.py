from pathlib import Path

import pytest
from untrained_runs import make

from transrec.data.shards.schema import ShardIndex
from transrec.experiment import Experiment
from transrec.runs.export import describe


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path) -> Experiment:
    return make(tmp_path / "run", synthetic_shards)


def test_the_export_says_which_catalogue_it_was_trained_on(experiment: Experiment, synthetic_shards: Path) -> None:
    index = ShardIndex.load(synthetic_shards)
    described = describe(experiment, experiment.data.scan(5))
    assert described.num_items == 60
    assert described.item_ids_sha256 == index.item_ids_sha256
    assert described.model == experiment.model.model_dump(mode="json")
