"""Items with a text, an image, both or neither, in random mixes: ranks keep step, and the loss is that of one process.

A rank may have a batch without any image while the other has several chunks of them, and the other way round.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import Commands
from pictured import build_pictured, random_histories, vision_model
from run_folder import exported, hashes, losses
from tiny_world import build_backbone

pytestmark = pytest.mark.slow

N, STEPS = 60, 60
COMPARABLE = ["train.clipping=1.0", "optimizer.weight_decay=0.01", "optimizer.schedule=linear"]


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("missing")
    rng = np.random.default_rng(0)
    pictured, described = (set((1 + np.flatnonzero(rng.random(N) < share)).tolist()) for share in (0.25, 0.5))
    assert set(range(1, N + 1)) - pictured - described
    shards = build_pictured(folder, N, pictured, described, random_histories(200, N))
    vision_model("dinov2", hidden_size=32).save_pretrained(folder / "vision")  # as wide as the text
    text = {"name": "text", "backbone": str(build_backbone(folder / "text", shards)), "fields": ["blurb"]}
    image = {"name": "image", "backbone": str(folder / "vision"), "chunk_images": 2, "dropout": 0.0}
    values = {
        "data": {"path": str(shards), "workers": 0, "cache": str(folder / "cache")},
        "model": {
            "width": 16,
            "max_length": 4,
            "item_encoder": {
                "name": "multimodal",
                "text": {**text, "max_tokens": 8, "chunk_tokens": 40, "dropout": 0.0},
                "image": image,
                "fusion": "gated",
            },
            "user_encoder": {"name": "sasrec", "layers": 1, "dropout": 0.0},
            "objective": {"name": "next_item"},
        },
        "train": {"steps": STEPS, "batch_size": 4, "log_every": 10, "evaluate_every": "never"},
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "adapter": 2e-3}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "config.yaml"


BETWEEN = "adaptation={name: side_network, towers: [item], inter_modal: true, also_train: [head]}"
METHODS = {"full": [], "inter_modal": [BETWEEN], "inter_modal, nothing kept": [BETWEEN, "prefix_cache.mode=off"]}


@pytest.fixture(scope="session", params=sorted(METHODS))
def alone(
    request: pytest.FixtureRequest, config: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """What one process makes of a method, and how it was told to."""
    method = METHODS[request.param]
    return method, train(config, commands, tmp_path_factory.mktemp("alone") / "run", *method)


def train(config: Path, commands: Commands, run_dir: Path, *overrides: str, ranks: int = 1) -> Path:
    finished = commands.run("train", "--config", config, f"run_dir={run_dir}", *COMPARABLE, *overrides, ranks=ranks)
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_keep_step_and_learn_what_one_learns(
    config: Path, commands: Commands, alone: tuple[list[str], Path], run_dir: Path, stage: int
) -> None:
    method, reference = alone
    run = train(config, commands, run_dir, f"zero.stage={stage}", *method, ranks=2)
    assert len(losses(run)) == STEPS
    assert hashes(run) == hashes(reference)
    np.testing.assert_allclose(losses(run), losses(reference), rtol=2e-5)
    assert (run / "export" / "image" / "backbone" / "config.json").exists()
    assert commands.run("evaluate", "--run", run, "--split", "test").code == 0


def test_networks_between_modalities_learn_the_same_from_kept_states(
    config: Path, commands: Commands, run_dir: Path
) -> None:
    """Bit for bit, though many a chunk holds one text of three tokens."""
    kept = train(config, commands, run_dir / "kept", BETWEEN)
    whole = train(config, commands, run_dir / "whole", BETWEEN, "prefix_cache.mode=off")
    # Of texts and of images; and the features of texts behind the whole backbone, for the baseline content_similarity.
    assert len(list((config.parent / "cache").glob("states-*"))) == 3
    assert losses(kept) == losses(whole)
    assert exported(kept).keys() == exported(whole).keys()
    assert all(torch.equal(tensor, exported(whole)[name]) for name, tensor in exported(kept).items())
