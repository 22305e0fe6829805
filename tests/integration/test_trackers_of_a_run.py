"""A training whose curves are shown by every tracker."""

import math
import os
import sys
from pathlib import Path

import pytest
from commands import ForkedCommands
from tiny_world import Tiny
from tracked import NAMES, OFFLINE, needs, points

from transrec.data.shards.schema import ShardIndex


def go_offline() -> None:
    os.environ.update(OFFLINE)


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_tracker_has_the_same_curves(commands: ForkedCommands, tiny: Tiny, run_dir: Path, ranks: int) -> None:
    for name in NAMES:
        needs(name)
    settings = [f"run_dir={run_dir}", "train.steps=6", "train.log_every=2", "train.evaluate_every=3"]
    chosen = f"train.trackers=[{', '.join(NAMES)}]"
    running = commands.start("train", "--config", tiny.config, *settings, chosen, ranks=ranks, before=go_offline)
    finished = running.wait()
    assert finished.code == 0, finished.stderr
    first, *others = (points(name, run_dir) for name in NAMES)
    assert {"train/loss", "train/gradient_norm", "perf/users_per_second", "valid/NDCG@10", "test/HR@10"} <= first.keys()
    assert [step for step, _ in first["train/loss"]] == [2, 3, 4, 6]
    for other in others:
        assert other.keys() == first.keys()
        for name, curve in first.items():
            assert [step for step, _ in other[name]] == [step for step, _ in curve]
            for (_, one), (_, two) in zip(other[name], curve, strict=True):
                assert math.isclose(one, two, rel_tol=1e-6), f"{name}: TensorBoard keeps 32 bits"


def test_the_projector_shows_the_most_frequent_items(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    settings = [f"run_dir={run_dir}", "train.steps=2", "train.trackers=[{name: tensorboard, items: 5}, csv]"]
    finished = commands.run("train", "--config", tiny.config, *settings)
    assert finished.code == 0, finished.stderr
    lines = (run_dir / "tensorboard" / "items.tsv").read_text().splitlines()
    named = lines[0].split("\t")
    assert named[:3] == ["item_id", "title", "interactions"]
    assert {*named[3:]} == {*ShardIndex.load(tiny.shards).text_fields} - {"title", "text"}
    counts = [int(line.split("\t")[2]) for line in lines[1:]]
    assert len(counts) == 5
    assert counts == sorted(counts, reverse=True)
    vectors = (run_dir / "tensorboard" / "item_vectors.tsv").read_text().splitlines()
    assert [len(line.split("\t")) for line in vectors] == [16] * 5
    assert (run_dir / "curves.csv").exists()


def test_a_library_that_is_missing_is_one_sentence(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    finished = commands.start(
        "train", "--config", tiny.config, f"run_dir={run_dir}", "train.trackers=[wandb]", before=hide_wandb
    ).wait()
    assert finished.code == 1
    assert finished.stderr == "error: the tracker wandb needs wandb: run pip install 'transrec[wandb]'\n"
    assert not run_dir.exists()


def hide_wandb() -> None:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # an import of it fails
