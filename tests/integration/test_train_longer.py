"""A finished run is trained longer: the same examples and, at constant rates, the same numbers as in one go."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Finished, ForkedCommands, refused
from run_folder import exported, hashes, losses, records
from tiny_world import Tiny


def train(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str) -> Finished:
    basics = ["--config", tiny.config, f"run_dir={run_dir}", "train.evaluate_every=2", "train.patience=null"]
    finished = commands.run("train", *basics, *more)
    assert "Traceback" not in finished.stderr
    return finished


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("one") / "run"
    assert train(commands, tiny, run_dir, "train.steps=8").code == 0
    return run_dir


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("four") / "run"
    assert train(commands, tiny, run_dir, "train.steps=4").code == 0
    return run_dir


def test_four_steps_and_four_more_are_eight(
    tiny: Tiny, commands: ForkedCommands, in_one_go: Path, of_four: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(of_four, tmp_path / "run"))
    finished = train(commands, tiny, run_dir, "train.steps=8")
    assert finished.code == 0, finished.stderr
    assert (
        "this run had finished after step 4: continuing to step 8, with the learning rates of a constant schedule of "
        "8 steps" in " ".join((finished.stdout + finished.stderr).split())
    )
    assert hashes(run_dir) == hashes(in_one_go)
    assert losses(run_dir) == losses(in_one_go)
    assert records(run_dir, "valid") == records(in_one_go, "valid")
    whole = exported(in_one_go)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in exported(run_dir).items())
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run_dir, in_one_go)]
    assert summaries[0]["test"] == summaries[1]["test"]
    assert "steps: 8" in (run_dir / "config.yaml").read_text()
    shorter = refused(train(commands, tiny, run_dir, "train.steps=6"))
    assert "train.steps: 8 there, 6 now" in shorter
    assert "Only a finished run can be trained for longer" in shorter


def test_a_schedule_is_planned_for_all_steps(
    tiny: Tiny, commands: ForkedCommands, in_one_go: Path, tmp_path: Path
) -> None:
    run_dir, falling = tmp_path / "run", "optimizer.schedule=linear"
    assert train(commands, tiny, run_dir, falling, "train.steps=4").code == 0
    before = losses(run_dir)
    finished = train(commands, tiny, run_dir, falling, "train.steps=8")
    assert "a linear schedule of 8 steps" in " ".join((finished.stdout + finished.stderr).split())
    assert hashes(run_dir) == hashes(in_one_go)
    assert losses(run_dir)[:4] == before


def test_only_a_finished_run_is_made_longer(
    tiny: Tiny, commands: ForkedCommands, of_four: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(of_four, tmp_path / "run"))
    (state,) = (run_dir / "checkpoints").glob("step-00000004/state.json")
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    assert "train.steps: 4 there, 8 now" in refused(train(commands, tiny, run_dir, "train.steps=8"))
    assert "train.epochs: 20 there, 30 now" in refused(
        train(commands, tiny, run_dir, "train.steps=4", "train.epochs=30")
    )


def test_a_run_whose_patience_ended_it_does_not_go_on(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    options = ["train.patience=1", "optimizer.lr.head=0", "optimizer.lr.backbone=0", "train.evaluate_every=1"]
    run_dir = tmp_path / "run"
    assert train(commands, tiny, run_dir, *options, "train.steps=4").code == 0
    assert len(losses(run_dir)) == 2
    finished = train(commands, tiny, run_dir, *options, "train.steps=8")
    assert finished.code == 0, finished.stderr
    assert len(losses(run_dir)) == 2
