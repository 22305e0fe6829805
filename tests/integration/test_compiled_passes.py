"""Runs that compile the passes of their item encoder learn what others do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ForkedCommands, refused
from run_folder import exported, hashes, losses
from tiny_world import ADAPTATIONS, COMPARABLE, Tiny

STEPS = 6
COMPILED = "train.compile=true"
SETTINGS = {
    "plain": [],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "adapters": [ADAPTATIONS["houlsby"]],
    "frozen": [ADAPTATIONS["frozen_backbone"]],  # its passes start behind the stored states
}

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, tiny: Tiny, commands: ForkedCommands) -> Train:
    def train(name: str, *overrides: str, ranks: int = 1, steps: int = STEPS) -> Path:
        settings = [*COMPARABLE, "evaluation.baselines=[]", f"train.steps={steps}", *overrides]
        finished = commands.run("train", "--config", tiny.config, f"run_dir={tmp_path / name}", *settings, ranks=ranks)
        assert finished.code == 0, finished.stderr
        return tmp_path / name

    return train


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "ranks"), [*((name, 1) for name in SETTINGS), ("plain", 2)])
def test_compiled_passes_give_the_same_losses_and_names(train: Train, setting: str, ranks: int) -> None:
    plain = train("plain", *SETTINGS[setting])
    run = train("compiled", COMPILED, f"zero.stage={2 * (ranks - 1)}", *SETTINGS[setting], ranks=ranks)
    assert hashes(run) == hashes(plain)
    np.testing.assert_allclose(losses(run), losses(plain), rtol=1e-5)
    trained = exported(run)
    assert trained.keys() == exported(plain).keys()
    for name, weight in exported(plain).items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-3)


def test_passes_that_gather_weights_are_refused(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", COMPILED, "zero.stage=3"]
    assert "set zero.stage to 0, 1 or 2, or leave out train.compile" in refused(commands.run("train", *arguments))


def _without_compiler() -> None:
    torch._inductor.config.cpp.cxx = ("/no/such/g++",)  # type: ignore[assignment]
    torch._inductor.config.force_disable_caches = True


def test_a_missing_compiler_is_refused(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    running = commands.start("train", "--config", tiny.config, f"run_dir={run_dir}", COMPILED, before=_without_compiler)
    assert "install a C++ compiler" in refused(running.wait())
