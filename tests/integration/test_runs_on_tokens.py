"""A model like EM3 whose fusion reads word pieces and patches, in real runs over items that lack texts or images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import ForkedCommands, refused
from pictured import build_pictured, random_histories, vision_model
from run_folder import exported, hashes, losses
from tiny_world import build_backbone

import transrec

N, STEPS = 40, 12
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frozen encoders, small chunks, so that ranks differ in their number of passes, and nothing random."""
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    pictured, described = (set((1 + np.flatnonzero(rng.random(N) < share)).tolist()) for share in (0.1, 0.6))
    shards = build_pictured(folder, N, pictured, described, random_histories(60, N))
    vision_model("dinov2").save_pretrained(folder / "vision")
    text = {"backbone": str(build_backbone(folder / "text", shards)), "fields": ["blurb"], "chunk_tokens": 40}
    image = {"backbone": str(folder / "vision"), "chunk_images": 1}
    shared = {"pooling": "mean", "projection": "linear", "dropout": 0.0}
    values = {
        "data": {
            "path": str(shards),
            "workers": 0,
            "cache": str(folder / "cache"),
            "examples": {"name": "impressions", "exposures": {"name": "sampled"}},
            "split": {"name": "last_share", "valid": 0.2, "test": 0.2},
            "min_interactions": 1,
        },
        "model": {
            "name": "ranking_model",
            "width": 8,
            "max_length": 4,
            "features": {"item": {"of": "item_id", "width": 4}},
            "item_encoder": {
                "name": "multimodal",
                "text": text | shared,
                "image": image | shared,
                "fusion": {"name": "fq_former", "granularity": "tokens", "dropout": 0.0},
            },
            "content_interest": {"name": "content_interest"},
            "dnn": {"widths": [16], "dropout": 0.0},
            "objective": {"content_id_contrast": {"weight": 0.1}},
        },
        "adaptation": {"name": "frozen_backbone"},
        "train": {
            "steps": STEPS,
            "batch_size": 8,
            "log_every": 1,
            "evaluate_every": "never",
            "monitor": "AUC",
            "clipping": 1.0,
        },
        "optimizer": {"lr": {"head": 1e-2, "embedding": 1e-2}},
        "evaluation": {"metrics": ["AUC", "log_loss"], "baselines": []},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, config: Path, commands: ForkedCommands) -> Train:
    done: dict[tuple[object, ...], Path] = {}

    def train(*overrides: str, ranks: int = 1) -> Path:
        key = (overrides, ranks)
        if key not in done:
            run_dir = tmp_path_factory.mktemp("tokens") / "run"
            finished = commands.run("train", "--config", config, f"run_dir={run_dir}", *overrides, ranks=ranks)
            assert finished.code == 0, finished.stderr
            done[key] = run_dir
        return done[key]

    return train


def summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text("utf-8"))
    return found


def test_a_run_on_tokens_learns_and_is_restored_from_its_export(train: Train) -> None:
    run = train()
    assert len(losses(run)) == STEPS
    assert sum(losses(run)[-4:]) < sum(losses(run)[:4])
    assert not any(".backbone." in name for name in exported(run))
    found = transrec.load_run(run).evaluate("test")
    assert found["log_loss"].value == pytest.approx(summary(run)["test"]["log_loss"], abs=1e-6)


def test_kept_states_of_all_tokens_give_the_losses_of_whole_passes(train: Train) -> None:
    kept, whole = train(), train("prefix_cache.mode=off")
    assert losses(kept) == pytest.approx(losses(whole), rel=1e-6)
    assert all(torch.allclose(exported(kept)[name], weight, atol=1e-5) for name, weight in exported(whole).items())
    assert summary(kept)["flops_per_user"]["forward"] < 0.5 * summary(whole)["flops_per_user"]["forward"]


def test_two_ranks_learn_what_one_learns(train: Train) -> None:
    """They pad to different numbers of tokens, and one may have no image at all."""
    one, two = train(), train("zero.stage=3", ranks=2)
    assert hashes(two) == hashes(one)
    assert losses(two) == pytest.approx(losses(one), rel=2e-5)


def test_principal_components_are_refused(config: Path, commands: ForkedCommands, run_dir: Path) -> None:
    finished = commands.run("train", "--config", config, f"run_dir={run_dir}", "model.principal_components=true")
    assert "principal_components needs one vector of each modality" in refused(finished)
    assert not run_dir.exists()
