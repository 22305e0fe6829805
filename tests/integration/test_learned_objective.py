"""An objective with a parameter of its own: it trains, is exported and scores, whatever the ZeRO stage."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ENVIRONMENT
from run_folder import exported
from tiny_world import build_shards

TRAIN = """
import sys
import torch
from torch import nn
from transrec.config import load
from transrec.experiment import Experiment
from transrec.objectives.next_item import FullSoftmax, FullSoftmaxConfig
from transrec.runs.train_and_test import run


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(SHAPE))

    def forward(self, users):
        return users / self.log.float().exp()


class LearnedTemperature(FullSoftmax):
    def __init__(self, sampling, temperature):
        super().__init__(sampling)
        self.logits = Learned()


FullSoftmaxConfig.build = lambda config: LearnedTemperature(config.sampling, config.temperature)
run(load(Experiment, sys.argv[1], sys.argv[2:]))
"""
CONFIG = """
data: {path: shards, cache: cache, workers: 0}
model:
  width: 8
  max_length: 5
  item_encoder: {name: id_embedding}
  user_encoder: {name: sasrec, layers: 1, dropout: 0}
  objective: {name: full_softmax}
train: {steps: 8, batch_size: 32, evaluate_every: 4, checkpoint_every: never}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    build_shards(folder / "shards", users=60, items=30, interactions=700)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def train(folder: Path, *overrides: str, shape: str = "1") -> Any:
    """A process that trains with the objective, whose parameter has the given shape."""
    command = [sys.executable, "-c", TRAIN.replace("SHAPE", shape), "config.yaml", *overrides]
    return subprocess.run(
        command, cwd=folder, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )


def loss_of(run_dir: Path) -> float:
    """The metric that depends on the temperature."""
    loss: float = json.loads((run_dir / "summary.json").read_text())["test"]["loss"]
    return loss


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    done = train(folder, "run_dir=plain")
    assert done.returncode == 0, done.stderr
    return folder / "plain"


def test_it_trains_and_scores_alike_under_zero_3(folder: Path, plain: Path) -> None:
    done = train(folder, "run_dir=partitioned", "zero.stage=3")
    assert done.returncode == 0, done.stderr
    ours, theirs = (exported(run)["objective.logits.log"] for run in (folder / "partitioned", plain))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    assert theirs.item() != 0
    assert loss_of(folder / "partitioned") == pytest.approx(loss_of(plain), rel=1e-4)


def test_it_starts_anew_where_the_rest_is_inherited(folder: Path, plain: Path) -> None:
    done = train(folder, "run_dir=target", f"init_from={plain}", "train.steps=1", "optimizer.lr.head=1e-9")
    assert done.returncode == 0, done.stderr
    assert exported(folder / "target")["objective.logits.log"].item() == pytest.approx(0, abs=1e-6)


def test_a_parameter_without_a_dimension_is_refused_by_name(folder: Path) -> None:
    done = train(folder, "run_dir=scalar", shape="()")
    assert done.returncode != 0
    assert "give objective.logits.log the shape (1,)" in done.stderr
