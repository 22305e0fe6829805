"""A catalogue is encoded behind the frozen layers if training left their states in the cache; nothing is filled."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import Tiny
from untrained_runs import export_run, make

from transrec import load_run
from transrec.item_encoders import layer_by_layer

METHODS: dict[str, Any] = {
    "whole backbone": {"name": "frozen_backbone"},
    "adapters in the last layer": {
        "name": "houlsby", "layers": [1], "bottleneck": {"item": 4}, "towers": ["item"], "also_train": ["head"]
    },
    "side network": {"name": "side_network", "bottleneck": {"item": 4}, "towers": ["item"], "also_train": ["head"]},
}  # fmt: skip


@pytest.fixture(params=METHODS)
def run_dir(request: pytest.FixtureRequest, tmp_path: Path, tiny: Tiny) -> Path:
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16, "dropout": 0.0}
    export_run(make(tmp_path / "run", tiny.shards, text, adaptation=METHODS[request.param]), moved=0.05)
    return tmp_path / "run"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of items of each pass that begins at the embeddings."""
    passes: list[int] = []
    embed = layer_by_layer.embed

    def counted(backbone: Any, inputs: Any) -> torch.Tensor:
        passes.append(len(next(iter(inputs.values()))))
        found: torch.Tensor = embed(backbone, inputs)
        return found

    monkeypatch.setattr(layer_by_layer, "embed", counted)
    return passes


def test_vectors_are_those_of_a_whole_pass(run_dir: Path, embedded: list[int]) -> None:
    cache = run_dir.parent / "cache"
    [states] = cache.glob("states-*")
    embedded.clear()
    recommender = load_run(run_dir)
    kept = recommender.item_vectors()
    assert embedded == [], "no item went through the frozen layers"
    recommended = recommender.recommend(kept.ids[:3])

    shutil.rmtree(states)
    fresh = load_run(run_dir)
    live = fresh.item_vectors()
    assert sum(embedded) >= len(live.ids)
    torch.testing.assert_close(kept.vectors, live.vectors, atol=1e-5, rtol=0)
    assert [row["item_id"] for row in fresh.recommend(live.ids[:3])] == [row["item_id"] for row in recommended]
    assert list(cache.glob("states-*")) == [], "these commands fill nothing"


def test_the_model_reads_raw_content_afterwards(run_dir: Path) -> None:
    recommender = load_run(run_dir)
    recommender.item_vectors()
    towers = recommender.model.towers().values()
    assert all(
        leaf.encoder.frozen_prefix is None for tower in towers for leaf in tower.leaves if leaf.encoder.pretrained
    )


def test_states_of_another_precision_are_not_used(tmp_path: Path, tiny: Tiny, embedded: list[int]) -> None:
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16, "dropout": 0.0}
    rounded = {"adaptation": {"name": "frozen_backbone"}, "prefix_cache": {"precision": "bf16"}}
    export_run(make(tmp_path / "run", tiny.shards, text, **rounded))
    assert len(list((tmp_path / "cache").glob("states-*"))) == 1
    embedded.clear()
    load_run(tmp_path / "run").item_vectors()
    assert embedded
