"""Training that starts behind the frozen layers is training that runs through them, and costs what is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from run_folder import exported, losses
from tiny_world import COMPARABLE, Tiny

pytestmark = pytest.mark.slow

OF_ITEMS = "towers: [item], also_train: [head]"
METHODS = {
    "houlsby_top": f"adaptation={{name: houlsby, layers: [1], bottleneck: {{item: 8}}, {OF_ITEMS}}}",
    "k_adapter": f"adaptation={{name: k_adapter, bottleneck: {{item: 8}}, heads: {{item: 2}}, dropout: 0, {OF_ITEMS}}}",
    "side_network": f"adaptation={{name: side_network, bottleneck: {{item: 8}}, {OF_ITEMS}}}",
    "head_only": "adaptation={name: head_only}",
}


def train(commands: Commands, tiny: Tiny, run_dir: Path, *settings: str) -> dict[str, Any]:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *COMPARABLE, *settings)
    assert finished.code == 0, finished.stderr
    return json.loads((run_dir / "summary.json").read_text())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_losses_weights_and_metrics_are_those_without_it(
    commands: Commands, tiny: Tiny, tmp_path: Path, method: str
) -> None:
    """Bit for bit on one thread in fp32, though some passes are of a single short text."""
    settings = [METHODS[method], f"data.cache={tmp_path / 'cache'}", "model.item_encoder.chunk_tokens=30"]
    kept = train(commands, tiny, tmp_path / "kept", *settings)
    # The baseline content_similarity keeps features behind the whole backbone, as training with a frozen one does.
    assert len(list((tmp_path / "cache").glob("states-*"))) == (1 if method == "head_only" else 2)
    whole = train(commands, tiny, tmp_path / "whole", *settings, "prefix_cache.mode=off")
    assert losses(tmp_path / "kept") == losses(tmp_path / "whole")
    assert (kept["valid"], kept["test"]) == (whole["valid"], whole["test"])
    weights, expected = exported(tmp_path / "kept"), exported(tmp_path / "whole")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert kept["flops_per_user"]["forward"] < whole["flops_per_user"]["forward"]


def test_side_networks_need_a_twentieth_of_the_operations_of_adapters_everywhere(
    commands: Commands, tiny: Tiny, tmp_path: Path
) -> None:
    """In the item encoder, six layers of MiniLM, forward."""
    minilm = ["model.item_encoder.backbone=all-MiniLM-L6-v2", "model.width=64", "train.steps=1"]
    operations = {}
    for method in ("houlsby", "side_network"):
        chosen = [*minilm, f"adaptation={{name: {method}, {OF_ITEMS}}}", f"data.cache={tmp_path / 'cache'}"]
        summary = train(commands, tiny, tmp_path / method, *chosen)
        operations[method] = summary["flops_by_tower"]["item_encoder"] * summary["flops_per_user"]["forward"]
    assert operations["houlsby"] >= 20 * operations["side_network"], operations
