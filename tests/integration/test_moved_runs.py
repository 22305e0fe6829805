"""Runs are read from any folder, also after they have moved; and one process trains, evaluates and trains again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, Finished, json_lines, refused
from tiny_world import build_shards

TRAIN_TWO = """
import json, sys
import transrec
from transrec.config import load
from transrec.experiment import Experiment
from transrec.runs.train_and_test import run

config = sys.argv[1]
for seed in (0, 1):
    summary = run(load(Experiment, config, [f"run_dir=runs/{seed}", f"seed={seed}"]))
    trained = transrec.load_run(f"runs/{seed}")
    found = trained.evaluate()["HR@10"].value
    assert found == summary["test"]["HR@10"], (seed, found)
    assert len(trained.recommend(trained.item_vectors().ids[:3], top=4)) == 4
over = ["run_dir=runs/adapted", "init_from=runs/0", "adaptation={name: bitfit}"]
run(load(Experiment, config, over))
resumed = run(load(Experiment, config, ["run_dir=runs/0", "seed=0"]))
assert resumed["test"] == json.load(open("runs/0/summary.json"))["test"]
"""
CONFIG = """
data: {path: shards, cache: cache, workers: 0}
model:
  width: 8
  max_length: 5
  item_encoder: {name: id_embedding}
  user_encoder: {name: sasrec, layers: 1}
  objective: {name: full_softmax}
train: {steps: 8, batch_size: 32, evaluate_every: never, checkpoint_every: never}
"""


def python(folder: Path, *arguments: str | Path) -> Finished:
    """A process that is started in `folder`."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and three runs, trained in one process that was given relative paths; then the whole tree was moved."""
    began = tmp_path_factory.mktemp("moved") / "began"
    began.mkdir()
    build_shards(began / "shards", users=60, items=30, interactions=700)
    (began / "config.yaml").write_text(CONFIG)
    (began / "train_two.py").write_text(TRAIN_TWO)
    finished = python(began, "train_two.py", "config.yaml")
    assert finished.code == 0, finished.stderr
    return began.rename(began.with_name("ended"))


def evaluate(folder: Path, run: Path, *more: str | Path) -> Finished:
    return python(folder, "-m", "transrec.commands.evaluate", "--run", run, *more)


def test_a_tree_that_moved_is_evaluated_from_elsewhere(tree: Path, tmp_path: Path) -> None:
    (line,) = json_lines(evaluate(tmp_path, tree / "runs/0"))
    assert line["test"] == json.loads((tree / "runs/0/summary.json").read_text())["test"]


def test_other_shards_beside_a_moved_run_are_not_taken_for_its_own(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tree / "runs/0", moved / "runs/0")
    other = build_shards(moved / "shards", users=60, items=30, interactions=600)
    message = refused(evaluate(tmp_path, moved / "runs/0"))
    assert f"was trained on shards other than {other}" in message
    assert "--data" in message
    (line,) = json_lines(evaluate(tmp_path, moved / "runs/0", "--data", other))
    assert line["data"] == str(other)


def test_a_base_that_moved_along_is_found(tree: Path, tmp_path: Path) -> None:
    assert (tree / "runs/adapted/export/adapter_model.safetensors").exists()
    (line,) = json_lines(evaluate(tmp_path, tree / "runs/adapted"))
    assert line["test"] == json.loads((tree / "runs/adapted/summary.json").read_text())["test"]


def test_a_run_that_moved_alone_asks_for_its_shards_and_takes_them(tree: Path, tmp_path: Path) -> None:
    alone = (tree / "runs/1").rename(tmp_path / "alone")
    message = refused(evaluate(tmp_path, alone))
    assert "are no longer at" in message
    assert "name their folder with --data" in message
    (line,) = json_lines(evaluate(tmp_path, alone, "--data", tree / "shards"))
    assert line["test"] == json.loads((alone / "summary.json").read_text())["test"]


def test_an_adapted_run_without_its_base_says_how_to_name_it(tree: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(tree / "runs/adapted", alone)
    data = ["--data", tree / "shards"]
    assert f"--adapter {alone} --run BASE" in refused(evaluate(tmp_path, alone, *data))
    (line,) = json_lines(evaluate(tmp_path, tree / "runs/0", "--adapter", alone, *data))
    assert line["test"] == json.loads((alone / "summary.json").read_text())["test"]
