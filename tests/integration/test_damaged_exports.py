"""Exports that were removed or damaged, in an unfinished run or after it: the best weights are in checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import ForkedCommands, json_lines, refused
from run_folder import exported
from tiny_world import ADAPTATIONS, Tiny

SETTINGS = ["train.steps=12", "train.evaluate_every=4", "train.checkpoint_every=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("damaged") / "run"
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *SETTINGS))
    return run_dir


def cut(path: Path) -> None:
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()  # the tensors of this process are mapped from it
    path.write_bytes(half)


def make_pointer(path: Path) -> None:
    path.unlink()
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": shutil.rmtree,
    "weights cut": lambda export: cut(export / "model.safetensors"),
    "weights removed": lambda export: (export / "model.safetensors").unlink(),
    "weights are a pointer": lambda export: make_pointer(export / "model.safetensors"),
    "description cut": lambda export: cut(export / "config.json"),
    "tokenizer cut": lambda export: cut(export / "backbone" / "tokenizer.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_run_gets_its_export_again(
    commands: ForkedCommands, tiny: Tiny, finished: Path, tmp_path: Path, damage: str
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    before, tested = exported(run_dir), json.loads((run_dir / "summary.json").read_text())["test"]
    DAMAGES[damage](run_dir / "export")
    told = refused(commands.run("recommend", "--run", run_dir, "--history", "item-3"))
    assert str(run_dir) in told
    again = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *SETTINGS)
    assert again.code == 0, again.stderr
    assert "writing the export again from a checkpoint" in again.stderr
    after = exported(run_dir)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((run_dir / "summary.json").read_text())["test"] == tested
    json_lines(commands.run("recommend", "--run", run_dir, "--history", "item-3"))


def test_an_unfinished_run_gets_its_best_weights_again_before_it_goes_on(
    commands: ForkedCommands, tiny: Tiny, tmp_path: Path
) -> None:
    """Also where the newest checkpoint is another than that of the best validation, and for an adapter."""
    source, run_dir = tmp_path / "source", tmp_path / "run"
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={source}", "train.steps=2"))
    command = ["--config", tiny.config, f"run_dir={run_dir}", f"init_from={source}", ADAPTATIONS["houlsby"]]
    command += ["train.steps=5000", "train.evaluate_every=4", "train.checkpoint_every=1", "train.patience=null"]
    running = commands.start("train", *command)
    running.wait_until(lambda: (run_dir / "checkpoints" / "step-00000006" / "state.json").exists())
    running.kill()
    best = max(path.name for path in (run_dir / "checkpoints").glob("step-*/state.json") for path in [path.parent])
    state = json.loads((run_dir / "checkpoints" / best / "state.json").read_text())["state"]
    assert state["best_step"]
    before = exported(run_dir) if state["best_step"] == 4 else None
    shutil.rmtree(run_dir / "export")
    running = commands.start("train", *command)
    running.wait_until(lambda: "resuming after step" in running.stderr)
    running.kill()
    assert "writing the export again from a checkpoint" in running.stderr
    after = exported(run_dir)
    if before is not None and state["step"] < 8:
        assert all(torch.equal(before[name], after[name]) for name in before)
    json_lines(commands.run("recommend", "--run", run_dir, "--history", "item-3"))


def test_an_export_whose_best_checkpoint_is_gone_is_told_before_training(
    commands: ForkedCommands, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run_dir / "export")
    newest = max((run_dir / "checkpoints").glob("step-*"))
    manifest = json.loads((newest / "state.json").read_text())
    manifest["state"]["best_step"] = 1
    (newest / "state.json").write_text(json.dumps(manifest))
    told = refused(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *SETTINGS))
    assert "step-00000001" in told
