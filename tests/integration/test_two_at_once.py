"""Two trainings in one run folder: the second is refused, and the first loses nothing."""

import random
import re
import time
from pathlib import Path

import pytest
from commands import ForkedCommands, refused
from run_folder import hashes
from tiny_world import Tiny

SETTINGS = ["train.steps=40", "train.checkpoint_every=2"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_training_in_a_run_folder_is_refused(
    commands: ForkedCommands, tiny: Tiny, tmp_path: Path, ranks: int
) -> None:
    command = ["--config", tiny.config, f"run_dir={tmp_path / 'run'}", "train.steps=5000", "train.checkpoint_every=2"]
    first = commands.start("train", *command, ranks=ranks)
    first.wait_until(lambda: (tmp_path / "run" / "checkpoints" / "step-00000004" / "state.json").exists())
    second = commands.start("train", *command, ranks=ranks).wait()
    owner = first.processes[0].pid
    assert re.search(rf"error: {tmp_path}/run is being trained by process {owner} on \S+: wait", second.stderr)
    assert "Traceback" not in second.stderr
    assert first.processes[0].wait(0) is None, "the first goes on"
    first.kill()
    again = commands.start("train", *command, ranks=ranks)
    again.wait_until(lambda: "resuming after step" in again.stderr)
    again.kill()


def test_a_training_that_cannot_start_leaves_nothing(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    told = refused(
        commands.run("train", "--config", tiny.config, f"run_dir={tmp_path / 'a/run'}", "data.path=/nowhere")
    )
    assert "/nowhere" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_trainings_at_twenty_offsets(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    rng, expected = random.Random(0), None
    for number in range(20):
        command = ["--config", tiny.config, f"run_dir={tmp_path / str(number)}", *SETTINGS]
        first = commands.start("train", *command)
        time.sleep(rng.uniform(0, 4))
        second = commands.start("train", *command)
        ends = [first.wait(), second.wait()]
        assert 0 in [end.code for end in ends]
        for end in ends:  # the second may also come after the first, and find it finished
            assert end.code == 0 or "is being trained by process" in end.stderr, end.stderr
        found = hashes(tmp_path / str(number))
        expected = expected or found
        assert len(found) == 40
        assert found == expected, "no step is lost or trained twice"
