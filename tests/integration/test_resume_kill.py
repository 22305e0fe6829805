"""A run that was killed anywhere and started again is, to the last bit, the run that was not."""

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import Commands, Finished, ForkedCommands
from run_folder import exported, records
from tiny_world import USER_MODELS, Tiny
from torch import Tensor

from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import Evaluator
from transrec.training import checkpoint
from transrec.training.trainer import Trainer

STEPS = 60


def arguments(tiny: Tiny, run_dir: Path, *more: str) -> list[str | Path]:
    """Dropout on, a loader worker, momentum and a schedule; validations and checkpoints at different steps."""
    cadence = ["train.log_every=2", "train.evaluate_every=12", "train.checkpoint_every=8", "train.patience=null"]
    schedule = ["optimizer.schedule=cosine", "optimizer.warmup=0.1", "train.clipping=1.0"]
    steps = [f"train.steps={STEPS}", "data.workers=1"]
    return ["--config", tiny.config, f"run_dir={run_dir}", *steps, *cadence, *schedule, *more]


def kill_at(commands: Commands, step: int, run_dir: Path, arguments: list[str | Path], ranks: int = 1) -> None:
    """Start the command, and kill it without warning as soon as it has written down `step`, or a little later.

    Not while it starts: DeepSpeed, killed as it loads an operator, leaves a lock behind that hangs all later runs.
    """
    running = commands.start("train", *arguments, ranks=ranks)
    running.wait_until(lambda: "training for" in running.stderr or "resuming after" in running.stderr)
    running.wait_until(lambda: len(records(run_dir, "step")) >= step)
    time.sleep(random.random() * 0.05)
    running.kill()
    assert not (run_dir / "summary.json").exists(), "the run was over before it could be killed"


def assert_same_run(run: Path, other: Path) -> None:
    assert records(run, "step") == records(other, "step")
    assert [record["step"] for record in records(run, "step")] == list(range(1, STEPS + 1))
    assert records(run, "valid") == records(other, "valid")
    weights, expected = exported(run), exported(other)
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(tensor) for name, tensor in expected.items())
    results = [json.loads((folder / "summary.json").read_text()) for folder in (run, other)]
    for key in ("valid", "test", "steps", "best_step", "parameters"):
        assert results[0][key] == results[1][key]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished = commands.run("train", *arguments(tiny, run_dir))
    assert finished.code == 0, finished.stderr
    return run_dir


def test_killed_once(tiny: Tiny, commands: ForkedCommands, uninterrupted: Path, run_dir: Path) -> None:
    kill_at(commands, random.randint(12, STEPS - 24), run_dir, arguments(tiny, run_dir))  # 8 is saved by then
    finished = commands.run("train", *arguments(tiny, run_dir))
    assert finished.code == 0, finished.stderr
    assert "resuming after step" in finished.stderr
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_goes_on_while_a_checkpoint_is_written(
    tiny: Tiny, commands: ForkedCommands, uninterrupted: Path, run_dir: Path, ranks: int
) -> None:
    finished = commands.start("train", *arguments(tiny, run_dir), ranks=ranks, before=write_slowly).wait()
    assert finished.code == 0, finished.stderr
    *earlier, last = [int(line) for line in (run_dir / "steps_meanwhile.txt").read_text().split()]
    assert any(earlier)
    assert last == 0
    if ranks == 1:
        assert_same_run(run_dir, uninterrupted)


def write_slowly() -> None:
    """Write down how many steps were trained meanwhile."""
    write, train_step, steps = checkpoint._write, Trainer._train_step, []

    def count(self: Trainer, step: int, *arguments: Any) -> None:
        steps.append(step)
        train_step(self, step, *arguments)

    def wait_and_write(path: Path, share: Mapping[str, Tensor]) -> str:
        before = len(steps)
        time.sleep(0.3)
        with (path.parents[2] / "steps_meanwhile.txt").open("a") as file:
            file.write(f"{len(steps) - before}\n")
        return write(path, share)

    Trainer._train_step, checkpoint._write = count, wait_and_write  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "ranks", "stage"),
    [("launched", 1, 0), ("launched", 2, 0), ("commands", 2, 1), ("commands", 2, 2), ("commands", 2, 3)],
)
def test_killed_five_times(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path, launcher: str, ranks: int, stage: int
) -> None:
    commands: Commands = request.getfixturevalue(launcher)
    zero, whole, killed = f"zero.stage={stage}", tmp_path / "whole", tmp_path / "killed"
    assert commands.run("train", *arguments(tiny, whole, zero), ranks=ranks).code == 0
    for step in sorted(random.sample(range(2, STEPS - 24), 5)):
        kill_at(commands, step, killed, arguments(tiny, killed, zero), ranks)
    finished = commands.run("train", *arguments(tiny, killed, zero), ranks=ranks)
    assert finished.code == 0, finished.stderr
    assert_same_run(killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 2)])
def test_killed_twenty_times_while_a_checkpoint_is_written(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path, ranks: int, stage: int
) -> None:
    """Every start reads what the kill before left, and checks its hashes: an unusable state would end it."""
    zero, whole, killed = f"zero.stage={stage}", tmp_path / "whole", tmp_path / "killed"
    assert commands.run("train", *arguments(tiny, whole, zero), ranks=ranks).code == 0
    often = arguments(tiny, killed, zero, "train.checkpoint_every=2")
    kills: list[Kill] = []
    for number in range(
        20
    ):  # every fifth waits for the end and so tells the others, busy machine or not, how long it takes
        after = random.random() * kills[number // 5 * 5].seconds if number % 5 else None
        kills.append(kill_in_checkpoint(commands, killed, often, ranks, after))
    assert any(kill.finished for kill in kills), "no kill met a checkpoint that was finished"
    assert not all(kill.finished for kill in kills), "no kill met a checkpoint that was not finished"
    finished = commands.run("train", *often, ranks=ranks)
    assert finished.code == 0, finished.stderr
    assert "resuming after step" in finished.stderr
    assert_same_run(killed, whole)


class Kill(NamedTuple):
    seconds: float  # after the beginning of a checkpoint
    finished: bool


def kill_in_checkpoint(
    commands: Commands, run_dir: Path, arguments: list[str | Path], ranks: int, after: float | None = None
) -> Kill:
    """Kill the run so many seconds after the beginning of its first checkpoint, or else as soon as that is finished."""
    began = time.time_ns()

    def unfinished() -> list[Path]:
        partials = (run_dir / "checkpoints").glob("*.partial")
        with suppress(FileNotFoundError):  # it got its name meanwhile
            return [path for path in partials if path.stat().st_mtime_ns > began]
        return []

    running = commands.start("train", *arguments, ranks=ranks)
    running.wait_until(lambda: bool(unfinished()))
    checkpoint_began = time.monotonic()
    if after is None:
        running.wait_until(lambda: not unfinished())
    else:
        time.sleep(after)
    seconds = time.monotonic() - checkpoint_began
    running.kill()
    return Kill(seconds, not unfinished())


@pytest.mark.slow
def test_killed_with_adapters(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    """The checkpoint leaves the frozen weights out; they have to come back from where they came."""
    houlsby, whole, killed = "adaptation={name: houlsby, also_train: [head]}", tmp_path / "whole", tmp_path / "killed"
    assert commands.run("train", *arguments(tiny, whole, houlsby)).code == 0
    kill_at(commands, 20, killed, arguments(tiny, killed, houlsby))
    assert commands.run("train", *arguments(tiny, killed, houlsby)).code == 0
    assert_same_run(killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("user_model", "ranks", "stage"), [("nextitnet", 1, 0), ("cloze", 2, 2)])
def test_killed_as_a_user_model_is_pretrained(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path, user_model: str, ranks: int, stage: int
) -> None:
    """What is hidden and which candidates there are follows from the step."""
    overrides = [*USER_MODELS[user_model], f"zero.stage={stage}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert commands.run("train", *arguments(tiny, whole, *overrides), ranks=ranks).code == 0
    kill_at(commands, 20, killed, arguments(tiny, killed, *overrides), ranks)
    assert commands.run("train", *arguments(tiny, killed, *overrides), ranks=ranks).code == 0
    assert_same_run(killed, whole)


def test_a_validation_is_written_down_before_the_checkpoint_that_follows_it(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path
) -> None:
    """A run resumed from that checkpoint does not validate again."""
    more = arguments(tiny, run_dir, "train.log_every=1000", "train.evaluate_every=12", "train.checkpoint_every=12")
    running = commands.start("train", *more)
    running.wait_until(lambda: any((run_dir / "checkpoints").glob("step-????????/state.json")))
    running.kill()
    checkpoints = sorted(path.parent.name for path in (run_dir / "checkpoints").glob("step-????????/state.json"))
    saved = int(checkpoints[-1].removeprefix("step-"))
    assert [record["step"] for record in records(run_dir, "valid")] == list(range(12, saved + 1, 12))


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "stopped"), (signal.SIGUSR1, 138, "paused")]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    tiny: Tiny,
    commands: ForkedCommands,
    uninterrupted: Path,
    run_dir: Path,
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    running = commands.start("train", *arguments(tiny, run_dir))
    running.wait_until(lambda: len(records(run_dir, "step")) >= 7)
    running.signal(number)
    assert_saved(running.wait(), run_dir, code, word)
    assert_goes_on(commands, arguments(tiny, run_dir), run_dir, uninterrupted)


def test_the_time_limit_saves_and_the_same_command_goes_on(
    tiny: Tiny, commands: ForkedCommands, uninterrupted: Path, run_dir: Path
) -> None:
    limited = arguments(tiny, run_dir, "train.time_limit=2s")
    assert_saved(commands.start("train", *limited, before=step_slowly).wait(), run_dir, 138, "paused")
    assert_goes_on(commands, arguments(tiny, run_dir), run_dir, uninterrupted)


def step_slowly() -> None:
    """The steps take longer than any time limit here."""
    train_step = Trainer._train_step

    def wait_and_train(self: Trainer, *arguments: Any) -> None:
        time.sleep(0.1)
        train_step(self, *arguments)

    Trainer._train_step = wait_and_train  # type: ignore[method-assign]


def assert_saved(finished: Finished, run_dir: Path, code: int, word: str) -> None:
    assert finished.code == code, finished.stderr
    stopped_after = len(records(run_dir, "step"))
    assert stopped_after < STEPS
    assert f"{word} after step {stopped_after}; run the same command again" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert (run_dir / "checkpoints" / f"step-{stopped_after:08d}" / "state.json").exists()


def assert_goes_on(commands: Commands, arguments: list[str | Path], run_dir: Path, uninterrupted: Path) -> None:
    stopped_after = len(records(run_dir, "step"))
    again = commands.run("train", *arguments)
    assert again.code == 0, again.stderr
    assert f"resuming after step {stopped_after}" in again.stderr
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_during_the_last_validation_leaves_the_tests_to_the_same_command(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, ranks: int
) -> None:
    started = ["--config", tiny.config, f"run_dir={run_dir}", "train.steps=4", "train.evaluate_every=4"]
    finished = commands.start("train", *started, ranks=ranks, before=stop_in_validations).wait()
    assert finished.code == 143, finished.stderr
    assert "stopped after training; run the same command again to evaluate the trained model" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert [record["step"] for record in records(run_dir, "valid")] == [4]
    assert not (run_dir / "summary.json").exists()
    again = commands.run("train", *started, ranks=ranks)
    assert again.code == 0, again.stderr
    assert [record["step"] for record in records(run_dir, "step")] == [1, 2, 3, 4]
    [valid] = records(run_dir, "valid")
    assert json.loads((run_dir / "summary.json").read_text())["valid"]["NDCG@10"] == pytest.approx(valid["NDCG@10"])


def stop_in_validations() -> None:
    """SIGTERM comes to this process as it begins one."""
    evaluate = Evaluator.model

    def evaluate_and_stop(self: Evaluator, *arguments: Any) -> dict[str, Estimate]:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)

    Evaluator.model = evaluate_and_stop  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_to_one_of_two_ranks_stops_both(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, number: signal.Signals, code: int
) -> None:
    running = commands.start("train", *arguments(tiny, run_dir), ranks=2)
    running.wait_until(lambda: len(records(run_dir, "step")) >= 7)
    pid = running.processes[1].pid
    assert pid is not None
    os.kill(pid, number)
    assert running.wait().code == code
    assert all(process.wait(0) == code for process in running.processes)
    assert commands.run("train", *arguments(tiny, run_dir), ranks=2).code == 0
