"""Tables whose rows have an optimizer of their own: the plain loop's curve on any ranks, stages and micro-batches.

The plain loop updates whole tables with a mask, in one process.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ForkedCommands, refused
from plain_loop import Curve, plain_loop
from run_folder import exported, gradient_norms, hashes, losses
from tiny_world import Tiny

from transrec.config import load
from transrec.experiment import Experiment

STEPS = 12  # an epoch has 8; in its last one rank 1 of 2 has no window at all
OPTIMIZERS = ["lazy_adam", "rowwise_adagrad"]
EACH = pytest.mark.parametrize("optimizer", OPTIMIZERS)
IDS = [
    "model.item_encoder={name: id_embedding}",
    "model.output=untied",
    "model.user_encoder.dropout=0",
    "train.clipping=0.2",
    "optimizer.weight_decay=0.01",
    "optimizer.schedule=linear",
    "optimizer.warmup=0.25",
    "optimizer.lr.embedding=0.02",
    f"train.steps={STEPS}",
]
TOPOLOGIES = [
    (1, "zero.stage=0", "train.accumulation=1"),
    (1, "zero.stage=1", "train.accumulation=4"),
    (2, "zero.stage=0", "train.accumulation=2"),
    (2, "zero.stage=2", "train.accumulation=1"),
    pytest.param(2, "zero.stage=1", "train.accumulation=2", marks=pytest.mark.slow),
    pytest.param(4, "zero.stage=2", "train.accumulation=2", marks=pytest.mark.slow),
]


def settings(optimizer: str) -> list[str]:
    return [*IDS, f"optimizer.embedding={{name: {optimizer}}}"]


@pytest.fixture(scope="module")
def plain(tiny: Tiny) -> Callable[[str], Curve]:
    curves: dict[str, Curve] = {}

    def plain(optimizer: str) -> Curve:
        if optimizer not in curves:
            curves[optimizer] = plain_loop(load(Experiment, tiny.config, ["run_dir=unused", *settings(optimizer)]))
        return curves[optimizer]

    return plain


@EACH
@pytest.mark.parametrize(("ranks", "stage", "accumulation"), TOPOLOGIES)
def test_rows_learn_what_a_dense_update_with_a_mask_learns(
    tiny: Tiny,
    commands: ForkedCommands,
    run_dir: Path,
    plain: Callable[[str], Curve],
    optimizer: str,
    ranks: int,
    stage: str,
    accumulation: str,
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *settings(optimizer), stage, accumulation]
    finished = commands.run("train", *arguments, ranks=ranks)
    assert finished.code == 0, finished.stderr
    expected = plain(optimizer)
    assert min(expected.gradient_norms) > 0.2, "every step is clipped"
    np.testing.assert_allclose(losses(run_dir), expected.losses, rtol=1e-5)
    np.testing.assert_allclose(gradient_norms(run_dir), expected.gradient_norms, rtol=1e-4)
    trained = exported(run_dir)
    assert trained.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        torch.testing.assert_close(trained[name], weight, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_norm_without_clipping_includes_the_rows(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, plain: Callable[[str], Curve]
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *settings("rowwise_adagrad"), "train.clipping=0"]
    finished = commands.run("train", *arguments, "train.steps=1")
    assert finished.code == 0, finished.stderr
    np.testing.assert_allclose(gradient_norms(run_dir), plain("rowwise_adagrad").gradient_norms[:1], rtol=1e-4)


@EACH
def test_a_resumed_run_repeats_every_bit(tiny: Tiny, commands: ForkedCommands, tmp_path: Path, optimizer: str) -> None:
    runs = [tmp_path / "unbroken", tmp_path / "resumed"]
    for run in runs:
        arguments = ["--config", tiny.config, f"run_dir={run}", *settings(optimizer), "train.checkpoint_every=3"]
        if run == runs[1]:
            killed = commands.start("train", *arguments, "zero.stage=1")
            killed.wait_until(lambda: len(list(runs[1].glob("checkpoints/step-????????/state.json"))) > 0)
            killed.kill()
            assert not (run / "summary.json").exists(), "the run was over before it could be killed"
        finished = commands.run("train", *arguments, "zero.stage=1")
        assert finished.code == 0, finished.stderr
    assert hashes(runs[0]) == hashes(runs[1])
    assert losses(runs[0]) == losses(runs[1])
    first, second = (exported(run) for run in runs)
    assert all(second[name].equal(tensor) for name, tensor in first.items())


@EACH
def test_other_ranks_and_another_stage_go_on_with_the_state_of_rows(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, plain: Callable[[str], Curve], optimizer: str
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *settings(optimizer), "train.checkpoint_every=3"]
    killed = commands.start("train", *arguments, "zero.stage=2", ranks=2)
    killed.wait_until(lambda: len(list(run_dir.glob("checkpoints/step-????????/state.json"))) > 0)
    killed.kill()
    assert not (run_dir / "summary.json").exists(), "the run was over before it could be killed"
    finished = commands.run("train", *arguments, "zero.stage=0")
    assert finished.code == 0, finished.stderr
    np.testing.assert_allclose(losses(run_dir), plain(optimizer).losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["zero.stage=3"], "set zero.stage to 0, 1 or 2"),
        (["train.precision=fp16"], "set train.precision to bf16 or fp32"),
        (["train.precision=bf16_weights", "zero.stage=1"], "set train.precision to bf16 or fp32"),
        (["optimizer.lr.embedding=null"], "set optimizer.lr.embedding"),
    ],
)
def test_what_rows_cannot_do_is_refused(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, more: list[str], message: str
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *settings("rowwise_adagrad"), *more]
    assert message in refused(commands.run("train", *arguments))


def test_a_model_without_tables_is_refused(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", "optimizer.embedding={name: lazy_adam}"]
    assert "the run trains no table" in refused(commands.run("train", *arguments))
