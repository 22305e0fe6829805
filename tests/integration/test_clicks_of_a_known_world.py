"""Clicks whose probabilities are known, from the build to a ranking model's AUC."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import ForkedCommands
from pictured import vision_model
from sklearn.metrics import roc_auc_score
from tiny_world import build_backbone

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards

SOURCE = SyntheticSource(n_users=800, n_items=64, n_interactions=16_000, n_impressions=12_800)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks") / "shards"
    build(SOURCE, "synthetic", folder)
    return folder


def probabilities(shards: Path) -> dict[tuple[str, str], float]:
    """By user and item."""
    users, names = UserShards(ShardFolder(shards)), pq.read_table(shards / "items.parquet")["item_id"].to_pylist()
    found = {}
    for number in range(len(users)):
        block = users.block(number)
        shown = block.shown
        assert shown is not None
        column: pa.StringArray = shown.context["probability"]
        for user, user_id in enumerate(block.user_ids.to_pylist()):
            for place in range(shown.offsets[user], shown.offsets[user + 1]):
                found[user_id, names[shown.items[place] - 1]] = float(column[place].as_py())
    return found


def test_a_ranking_model_learns_from_them_and_no_answer_beats_the_recorded_probabilities(
    shards: Path, tmp_path: Path, commands: ForkedCommands
) -> None:
    encoders = {
        "name": "multimodal",
        "text": {"backbone": str(build_backbone(tmp_path / "text", shards)), "pooling": "mean", "projection": "linear"},
        "image": {"backbone": str(tmp_path / "vision"), "pooling": "mean", "projection": "linear"},
        "fusion": "fq_former",
    }
    vision_model("dinov2").save_pretrained(tmp_path / "vision")
    values = {
        "data": {
            "path": str(shards),
            "workers": 0,
            "cache": str(tmp_path / "cache"),
            "examples": {"name": "impressions", "exposures": {"name": "shown"}},
            "split": {"name": "temporal"},
            "min_interactions": 1,
        },
        "model": {
            "name": "ranking_model",
            "features": {"item": {"of": "item_id"}},
            "item_encoder": encoders,
            "content_interest": {"name": "content_interest"},
        },
        "adaptation": {"name": "frozen_backbone"},
        "optimizer": {"lr": {"head": 1e-2}},
        "train": {"steps": 120, "batch_size": 256, "evaluate_every": "never", "monitor": "AUC"},
        "evaluation": {"metrics": ["AUC"]},
    }
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    finished = commands.run("train", "--config", config, f"run_dir={run}")
    assert finished.code == 0, finished.stderr

    summary = json.loads((run / "summary.json").read_text())
    known, answers = probabilities(shards), pq.read_table(run / "test_users.parquet").to_pydict()
    pairs = zip(answers["user_id"], answers["target"], strict=True)
    best = roc_auc_score(answers["label"], [known[pair] for pair in pairs])
    assert best == pytest.approx(SOURCE.clicks.best_auc(), abs=0.04)
    baselines = [result["AUC"] for result in summary["baselines"].values()]
    assert 0.6 < summary["test"]["AUC"] < best
    assert max(baselines) < best
    features = json.loads((run / "export" / "features.json").read_text())
    assert features["vocabularies"].keys() == {"item"}, "the probability is not read"
