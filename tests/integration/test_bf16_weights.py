"""Training with bf16 weights follows fp32, and what is saved are the fp32 master weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ForkedCommands, refused
from run_folder import exported, hashes, losses
from tiny_world import COMPARABLE, Tiny

BF16 = "train.precision=bf16_weights"


def train(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str, ranks: int = 1) -> Path:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *COMPARABLE, *more]
    finished = commands.run("train", *arguments, ranks=ranks)
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, tmp_path_factory.mktemp("fp32") / "run")


@pytest.mark.parametrize(("stage", "ranks", "more"), [(1, 2, ["train.accumulation=2"]), (2, 2, []), (3, 2, [])])
def test_losses_follow_fp32(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path, full_precision: Path, stage: int, ranks: int, more: list[str]
) -> None:
    run_dir = train(commands, tiny, tmp_path / "run", BF16, f"zero.stage={stage}", *more, ranks=ranks)
    assert hashes(run_dir) == hashes(full_precision)
    np.testing.assert_allclose(losses(run_dir), losses(full_precision), rtol=0.03)  # 8 bits of fraction
    assert losses(run_dir) != losses(full_precision)
    weights = exported(run_dir).values()
    assert all(
        torch.equal(tensor, tensor.bfloat16().to(tensor.dtype)) for tensor in weights if tensor.is_floating_point()
    )


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 3)])
def test_a_run_that_goes_on_has_lost_nothing_of_its_master_weights(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path, before: int, after: int
) -> None:
    basics = [BF16, "optimizer.schedule=constant", "optimizer.warmup=0"]
    at_once = train(commands, tiny, tmp_path / "at_once", *basics, f"zero.stage={after}")
    in_two = train(commands, tiny, tmp_path / "in_two", *basics, f"zero.stage={before}", "train.steps=6")
    train(commands, tiny, in_two, *basics, f"zero.stage={after}", "train.steps=12")
    rounding = 0 if before == after else 3e-3  # stages add in another order
    np.testing.assert_allclose(losses(in_two), losses(at_once), rtol=rounding)


def test_stage_0_is_refused_because_it_keeps_no_master_weights(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path
) -> None:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={tmp_path / 'run'}", BF16)
    assert "needs the fp32 master weights of zero.stage 1, 2 or 3" in refused(finished)
