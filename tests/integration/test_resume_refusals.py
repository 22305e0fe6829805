"""Runs that cannot go on say so, and say why, before they do harm."""

import re
import shutil
from pathlib import Path

import pytest
from commands import Finished, ForkedCommands, refused
from run_folder import records
from tiny_world import Tiny, build_shards


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert train(commands, tiny, run_dir).code == 0
    return run_dir


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A run that stopped after its checkpoints, to be started again with `as_of`."""
    return shutil.copytree(finished_run, tmp_path / "run")


def train(commands: ForkedCommands, tiny: Tiny, run_dir: Path, *more: str, ranks: int = 1) -> Finished:
    basics = ["--config", tiny.config, f"run_dir={run_dir}", "train.steps=4", "train.checkpoint_every=2"]
    return commands.run("train", *basics, *more, ranks=ranks)


def give_to(run_dir: Path, original: Path) -> None:
    """Write the folder's own name where the original's stood."""
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(original), str(run_dir)))


def test_a_finished_run_started_again_stays_as_it_is(
    tiny: Tiny, commands: ForkedCommands, finished_run: Path, run_copy: Path
) -> None:
    give_to(run_copy, finished_run)
    weights = (run_copy / "export" / "model.safetensors").read_bytes()
    finished = train(commands, tiny, run_copy)
    assert finished.code == 0, finished.stderr
    assert (run_copy / "export" / "model.safetensors").read_bytes() == weights
    assert records(run_copy, "step") == records(finished_run, "step")


def test_another_configuration(tiny: Tiny, commands: ForkedCommands, finished_run: Path, run_copy: Path) -> None:
    give_to(run_copy, finished_run)
    before = (run_copy / "config.yaml").read_bytes()
    message = refused(train(commands, tiny, run_copy, "optimizer.lr.head=0.5", "seed=7"))
    assert f"{run_copy} holds another experiment" in message
    assert "optimizer.lr.head: 0.001 there, 0.5 now" in message
    assert "seed: 0 there, 7 now" in message
    assert message.count(" there, ") == 2
    assert (run_copy / "config.yaml").read_bytes() == before


def test_a_folder_that_is_no_run(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "thesis.tex").write_text("")
    assert f"{run_dir} is neither empty nor a run folder" in refused(train(commands, tiny, run_dir))
    assert [path.name for path in run_dir.iterdir()] == ["thesis.tex"]


def test_a_changed_byte_in_a_checkpoint(
    tiny: Tiny, commands: ForkedCommands, finished_run: Path, run_copy: Path
) -> None:
    give_to(run_copy, finished_run)
    (file,) = (run_copy / "checkpoints" / "step-00000004").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = refused(train(commands, tiny, run_copy))
    assert "step-00000004" in message
    assert file.name in message
    assert "delete it" in message
    file.unlink()
    assert file.name in refused(train(commands, tiny, run_copy))


def test_a_checkpoint_without_its_state_does_not_count(
    tiny: Tiny, commands: ForkedCommands, finished_run: Path, run_copy: Path
) -> None:
    give_to(run_copy, finished_run)
    (run_copy / "checkpoints" / "step-00000004" / "state.json").unlink()
    finished = train(commands, tiny, run_copy)
    assert finished.code == 0, finished.stderr
    assert records(run_copy, "step") == records(finished_run, "step")


def test_shards_that_moved_and_shards_that_are_others(
    tiny: Tiny, commands: ForkedCommands, finished_run: Path, run_copy: Path, tmp_path: Path
) -> None:
    give_to(run_copy, finished_run)
    moved, other = shutil.copytree(tiny.shards, tmp_path / "moved"), build_shards(tmp_path / "other", seed=1)
    before = (run_copy / "config.yaml").read_bytes()
    assert "trained with other shards" in refused(train(commands, tiny, run_copy, f"data.path={other}"))
    assert (run_copy / "config.yaml").read_bytes() == before
    finished = train(commands, tiny, run_copy, f"data.path={moved}")
    assert finished.code == 0, finished.stderr
    assert f"path: {moved}\n" in (run_copy / "config.yaml").read_text()


def test_a_batch_that_cannot_be_cut(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    message = refused(train(commands, tiny, run_dir, "train.batch_size=15", "train.accumulation=2"))
    assert "`train.batch_size` 15 must be divisible" in message


# Losses that are no numbers

BROKEN = ["optimizer.lr={backbone: 1.0e+30, head: 1.0e+30, adapter: 1.0e+30}", "train.log_every=1"]


def test_a_loss_that_is_not_finite(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    message = refused(train(commands, tiny, run_dir, *BROKEN, "train.checkpoint_every=1"))
    step = len(records(run_dir, "step")) + 1
    assert f"the loss is nan at step {step}" in message
    assert re.search(r"\(users user-\d+, ", message)
    assert f"Last good checkpoint: {run_dir}/checkpoints/step-{step - 1:08d}" in message


def test_a_loss_that_is_not_finite_before_the_first_checkpoint(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path
) -> None:
    message = refused(train(commands, tiny, run_dir, *BROKEN, "train.log_every=10"))
    assert "Last good checkpoint: none" in message
    assert not list(run_dir.glob("checkpoints/step-*"))


def test_weights_that_break_just_before_a_validation(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    """The loss of the first step is fine, what it makes of the weights is not."""
    message = refused(train(commands, tiny, run_dir, *BROKEN, "train.evaluate_every=1"))
    assert "step 1" in message
    assert "learning rate" in message
