"""A run rebuilt from its folder is the model that was trained."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import build_backbone
from untrained_runs import HOULSBY, assert_same_weights, export_run, make

from transrec.config import ConfigError
from transrec.data.shards.schema import ShardIndex
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.item_encoders.text import TextEncoderConfig
from transrec.runs.build import build
from transrec.runs.rebuild import rebuild_for
from transrec.runs.run_folder import load, write_run_dir

ADAPTATIONS = {
    "full": {"name": "full"},
    "adapted": HOULSBY | {"also_train": ["head"]},
    "adapted_and_nothing_frozen": HOULSBY | {"also_train": ["head", "layer_norm"]},
    "adapted_beside_full": [{"name": "full"}, HOULSBY],
}


@pytest.mark.parametrize("adaptation", ADAPTATIONS.values(), ids=ADAPTATIONS)
def test_a_run_is_rebuilt_from_its_folder(tmp_path: Path, synthetic_shards: Path, adaptation: dict[str, Any]) -> None:
    trained = export_run(make(tmp_path / "run", synthetic_shards, adaptation=adaptation))
    found = load(tmp_path / "run")
    assert_same_weights(rebuild_for(found, tmp_path / "run", ShardIndex.load(synthetic_shards)), trained)


def test_a_transferred_run_is_rebuilt_over_its_source(tmp_path: Path, synthetic_shards: Path) -> None:
    export_run(make(tmp_path / "source", synthetic_shards))
    values = {"init_from": str(tmp_path / "source"), "adaptation": HOULSBY}
    trained = export_run(make(tmp_path / "run", synthetic_shards, **values))
    found = load(tmp_path / "run")
    assert_same_weights(rebuild_for(found, tmp_path / "run", ShardIndex.load(synthetic_shards)), trained)


def test_item_ids_of_another_catalogue_are_refused(tmp_path: Path, synthetic_shards: Path, build_shards) -> None:
    export_run(make(tmp_path / "run", synthetic_shards))
    other = ShardIndex.load(build_shards({"u": [1, 2, 3]}, n_items=60))
    with pytest.raises(ConfigError, match="item ids of another catalogue"):
        rebuild_for(load(tmp_path / "run"), tmp_path / "run", other)


def test_a_run_without_an_export_is_a_readable_error(tmp_path: Path, synthetic_shards: Path) -> None:
    experiment = make(tmp_path / "run", synthetic_shards)
    write_run_dir(experiment)
    with pytest.raises(ConfigError, match="has no export yet"):
        rebuild_for(experiment, experiment.run_dir, ShardIndex.load(synthetic_shards))


@pytest.mark.parametrize("also_train", [["head"], ["head", "layer_norm"]], ids=["frozen_norms", "nothing_frozen"])
def test_a_source_with_adapters_is_refused(tmp_path: Path, synthetic_shards: Path, also_train: list[str]) -> None:
    """Without its adapters the rest of its weights are not what it learnt."""
    export_run(make(tmp_path / "source", synthetic_shards, adaptation=HOULSBY | {"also_train": also_train}))
    with pytest.raises(ConfigError, match="was trained with adapters"):
        build(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "source")), World())


def with_output_table(experiment: Experiment) -> Experiment:
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"output": "untied"})})


def test_an_output_table_can_be_left_behind(tmp_path: Path, synthetic_shards: Path) -> None:
    source = export_run(with_output_table(make(tmp_path / "source", synthetic_shards)))
    values = {"init_from": str(tmp_path / "source")}
    with pytest.raises(
        ConfigError, match=r"unexpected: output\.bias\.weight(?s:.*)model\.output is untied in the source run but tied"
    ):
        build(make(tmp_path / "run", synthetic_shards, **values), World())
    kept = build(make(tmp_path / "run", synthetic_shards, init_except=["output"], **values), World()).model.state_dict()
    expected = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("output.")}
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())


def test_an_output_table_belongs_to_its_catalogue(tmp_path: Path, synthetic_shards: Path, build_shards) -> None:
    source = with_output_table(make(tmp_path / "source", synthetic_shards))
    export_run(source)
    other = build_shards({"u": [1, 2, 3, 1, 2, 3]}, n_items=3)
    fresh = "`init_except=[item_encoder.embedding,output.vectors,output.bias]`"
    with pytest.raises(ConfigError, match=re.escape(fresh)):
        build(with_output_table(make(tmp_path / "run", other, init_from=str(tmp_path / "source"))), World())
    assert source.model.embeds_ids
    assert source.model.model_copy(update={"item_encoder": TextEncoderConfig(backbone="any")}).embeds_ids


# Several modalities


@pytest.fixture(scope="module")
def text_and_ids(tmp_path_factory: pytest.TempPathFactory, synthetic_shards: Path) -> dict[str, Any]:
    backbone = build_backbone(tmp_path_factory.mktemp("text") / "backbone", synthetic_shards)
    return {"name": "multimodal", "text": {"name": "text", "backbone": str(backbone)}, "id": {"name": "id_embedding"}}


def test_item_ids_among_several_modalities_are_left_fresh_on_another_catalogue(
    tmp_path: Path, synthetic_shards: Path, build_shards: Any, text_and_ids: dict[str, Any]
) -> None:
    source = export_run(make(tmp_path / "source", synthetic_shards, text_and_ids)).state_dict()
    other = build_shards({f"u{user}": [1, 2, 3, 4, 5, 6] for user in range(8)}, n_items=9)
    taken = {"init_from": str(tmp_path / "source")}
    with pytest.raises(ConfigError, match=r"`init_except=\[item_encoder\.id\.embedding\]`"):
        build(make(tmp_path / "refused", other, text_and_ids, **taken), World())
    fresh = {"init_except": ["item_encoder.id.embedding"], "adaptation": HOULSBY | {"also_train": ["head"]}}
    run = make(tmp_path / "run", other, text_and_ids, **taken, **fresh)
    begun = build(run, World()).model.state_dict()
    assert begun.pop("item_encoder.id.embedding.weight").shape == (10, 8)
    assert begun.keys() == {n for n in source if not n.startswith("item_encoder.id.")} | {
        n for n in begun if ".adapter." in n
    }
    assert all(torch.equal(tensor, source[name]) for name, tensor in begun.items() if name in source)
    trained = export_run(run)
    assert_same_weights(rebuild_for(load(run.run_dir), run.run_dir, ShardIndex.load(other)), trained)


def test_one_modality_may_be_left_fresh(tmp_path: Path, synthetic_shards: Path, text_and_ids: dict[str, Any]) -> None:
    source = export_run(make(tmp_path / "source", synthetic_shards, text_and_ids)).state_dict()
    values = {"init_from": str(tmp_path / "source"), "init_except": ["item_encoder.text.projection"], "seed": 7}
    begun = build(make(tmp_path / "run", synthetic_shards, text_and_ids, **values), World()).model.state_dict()
    differ = {name for name, tensor in begun.items() if not torch.equal(tensor, source[name])}
    assert differ == {"item_encoder.text.projection.weight", "item_encoder.text.projection.bias"}
