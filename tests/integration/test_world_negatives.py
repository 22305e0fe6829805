"""An in-batch softmax over the items of all ranks gives one loss curve, however many ranks there are."""

from pathlib import Path

import numpy as np
import pytest
from commands import ForkedCommands
from run_folder import assert_same_weights, gradient_norms, hashes, losses
from tiny_world import COMPARABLE, Tiny

STEPS = 12  # an epoch has 8; in its last one rank 1 of 2 has no window at all
TOLERANCE = 1e-5
SETTINGS = [*COMPARABLE, f"train.steps={STEPS}"]


def objective(source: str) -> str:
    return f"model.objective={{name: in_batch_softmax, temperature: 0.5, negatives_from: {source}}}"


def train(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *overrides: str, ranks: int = 1) -> Path:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *SETTINGS, *overrides]
    finished = commands.run("train", *arguments, ranks=ranks)
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    """One process that tells the items of its batch apart, which are those of the world."""
    return train(commands, tiny, tmp_path_factory.mktemp("alone") / "run", objective("rank"))


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [(1, 0), (2, 0), (2, 2), pytest.param(2, 3, marks=pytest.mark.slow), pytest.param(4, 1, marks=pytest.mark.slow)],
)
def test_ranks_do_not_change_a_step(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, alone: Path, ranks: int, stage: int
) -> None:
    run = train(commands, tiny, run_dir, objective("world"), f"zero.stage={stage}", ranks=ranks)
    assert hashes(run) == hashes(alone)
    np.testing.assert_allclose(losses(run), losses(alone), rtol=TOLERANCE)
    np.testing.assert_allclose(gradient_norms(run), gradient_norms(alone), rtol=1e-3)  # Adam enlarges what is rounded
    assert_same_weights(run, alone)


def test_ranks_do_not_change_an_accumulated_step(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    """A micro-batch keeps to its own items, which are spread over the ranks."""
    accumulated = ["train.accumulation=2", "zero.stage=2"]
    one = train(commands, tiny, tmp_path / "one", objective("rank"), *accumulated)
    two = train(commands, tiny, tmp_path / "two", objective("world"), *accumulated, ranks=2)
    np.testing.assert_allclose(losses(two), losses(one), rtol=TOLERANCE)


def test_the_items_of_a_rank_alone_are_fewer(tiny: Tiny, commands: ForkedCommands, run_dir: Path, alone: Path) -> None:
    """Else the comparison above would not notice if nothing were gathered."""
    run = train(commands, tiny, run_dir, objective("rank"), ranks=2)
    assert (np.array(losses(run)) < 0.9 * np.array(losses(alone))).any()
