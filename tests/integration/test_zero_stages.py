"""ZeRO spreads a run over ranks and changes nothing else: one loss curve, one gradient norm, one export.

The single-process run that all are compared with is itself compared with a plain PyTorch loop in tests/numerics.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Commands, ForkedCommands, LaunchedCommands
from pictured import build_pictured, random_histories, vision_model
from plain_loop import plain_loop
from run_folder import assert_same_weights, exported, gradient_norms, hashes, losses
from tiny_world import ADAPTATIONS, COMPARABLE, USER_MODELS, Tiny

from transrec.adaptation import MethodConfig
from transrec.config import config_classes, load
from transrec.experiment import Experiment

TOLERANCE = 1e-5
STEPS = 12  # an epoch has 8; in its last one rank 1 of 2 has no window at all

SLOW = pytest.mark.slow
METHODS = sorted(ADAPTATIONS.keys() - {"full", "houlsby"})
UNTRAINED_HEAD = {"last_layers"}  # freezes the projection, so it needs a source

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Train:
    """Train with some overrides, unless the session did so before; gives the run folder."""
    done: dict[tuple[object, ...], Path] = {}

    def train(*overrides: str, ranks: int = 1, commands: Commands = commands) -> Path:
        key = (overrides, ranks, commands)
        if key not in done:
            run_dir = tmp_path_factory.mktemp("zero") / "run"
            arguments = ["--config", tiny.config, f"run_dir={run_dir}", f"train.steps={STEPS}", *COMPARABLE, *overrides]
            finished = commands.run("train", *arguments, ranks=ranks)
            assert finished.code == 0, finished.stderr
            done[key] = run_dir
        return done[key]

    return train


def assert_same_curve(run: Path, reference: Path) -> None:
    assert len(losses(run)) == STEPS
    assert hashes(run) == hashes(reference)
    np.testing.assert_allclose(losses(run), losses(reference), rtol=TOLERANCE)


# Stages


@pytest.mark.parametrize(
    ("adaptation", "stage"),
    [("full", 3), ("houlsby", 3)]
    + [pytest.param("full", stage, marks=SLOW) for stage in (0, 1, 2)]
    + [pytest.param("houlsby", stage, marks=SLOW) for stage in (0, 1, 2)]
    + [pytest.param(method, stage, marks=SLOW) for method in METHODS for stage in (0, 2, 3)],
)
def test_every_stage_trains_alike(train: Train, tiny: Tiny, adaptation: str, stage: int) -> None:
    check_stage(train(ADAPTATIONS[adaptation], f"zero.stage={stage}", ranks=2), train, tiny, adaptation)


@pytest.fixture(scope="session")
def image_tower(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings for a ViT over images that a fifth of the items lack, a few to a pass."""
    folder = tmp_path_factory.mktemp("image_tower")
    pictured = set(range(1, 81)) - set(range(5, 81, 5))
    shards = build_pictured(folder, 80, pictured, (), random_histories(200, 80))
    vision_model("vit").save_pretrained(folder / "vision")
    encoder = {"name": "image", "backbone": str(folder / "vision"), "chunk_images": 5, "dropout": 0.0}
    return [f"data.path={shards}", f"model.item_encoder={json.dumps(encoder)}"]


@SLOW
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("adaptation", sorted(ADAPTATIONS))
def test_every_stage_trains_an_image_tower_alike(
    train: Train, image_tower: list[str], adaptation: str, stage: int
) -> None:
    settings = [*image_tower, ADAPTATIONS[adaptation]]
    run, reference = train(*settings, f"zero.stage={stage}", ranks=2), train(*settings)
    assert_same_curve(run, reference)
    assert_same_weights(run, reference)


def test_every_method_is_trained_here(tiny: Tiny) -> None:
    experiments = [load(Experiment, tiny.config, ["run_dir=unused", setting]) for setting in ADAPTATIONS.values()]
    chosen = [experiment.adaptation for experiment in experiments]
    single = [method for adaptation in chosen for method in getattr(adaptation, "methods", [adaptation])]
    assert {method.name for method in single} | UNTRAINED_HEAD == {
        member.model_fields["name"].default for member in config_classes(MethodConfig) if "name" in member.model_fields
    }


@SLOW
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("adaptation", ["full", "houlsby"])
def test_every_stage_trains_alike_under_the_launcher(
    train: Train, tiny: Tiny, launched: LaunchedCommands, adaptation: str, stage: int
) -> None:
    run = train(ADAPTATIONS[adaptation], f"zero.stage={stage}", ranks=2, commands=launched)
    check_stage(run, train, tiny, adaptation)


@SLOW
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("user_model", USER_MODELS)
def test_every_stage_trains_user_models_alike(train: Train, user_model: str, stage: int) -> None:
    run, reference = train(*USER_MODELS[user_model], f"zero.stage={stage}", ranks=2), train(*USER_MODELS[user_model])
    assert_same_curve(run, reference)
    assert_same_weights(run, reference)


def check_stage(run: Path, train: Train, tiny: Tiny, adaptation: str) -> None:
    reference = train(ADAPTATIONS[adaptation])
    assert_same_curve(run, reference)
    assert_same_weights(run, reference)
    plain = plain_loop(load(Experiment, tiny.config, ["run_dir=unused", *COMPARABLE, ADAPTATIONS[adaptation]]))
    np.testing.assert_allclose(losses(run), plain.losses, rtol=TOLERANCE)
    np.testing.assert_allclose(gradient_norms(run), plain.gradient_norms, rtol=1e-4)


def test_an_adapter_export_holds_what_was_trained_and_no_more(train: Train, tiny: Tiny) -> None:
    experiment = load(Experiment, tiny.config, ["run_dir=unused", ADAPTATIONS["houlsby"]])
    model = experiment.model.build(num_items=80)
    experiment.adaptation.apply(model)
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < sum(".adapter." in name for name in shapes) < len(shapes)
    for run in (train(ADAPTATIONS["houlsby"]), train(ADAPTATIONS["houlsby"], "zero.stage=3", ranks=2)):
        assert {name: tensor.shape for name, tensor in exported(run).items()} == shapes


# Micro-batches


@pytest.mark.parametrize(
    ("ranks", "cut"),
    [
        (2, "train.accumulation=1"),
        (1, "train.accumulation=2"),
        pytest.param(1, "train.accumulation=8", marks=SLOW),
        pytest.param(2, "train.accumulation=2", marks=SLOW),
    ],
    ids=["2x8", "1x8x2", "1x2x8", "2x4x2"],
)
@pytest.mark.parametrize(
    "objective",
    [
        "next_item",
        "cpc",
        "full_softmax",
        pytest.param("sampled_softmax", marks=SLOW),
        pytest.param("cloze", marks=SLOW),
    ],
)
def test_ranks_and_accumulation_do_not_change_a_step(train: Train, objective: str, ranks: int, cut: str) -> None:
    choice = f"model.objective.name={objective}"
    run, whole = train(choice, cut, ranks=ranks), train(choice)
    assert_same_curve(run, whole)
    assert_same_weights(run, whole)


@pytest.mark.parametrize(
    ("how", "ranks", "stage"),
    [
        ("true", 1, 0),
        ("passes", 1, 0),
        pytest.param("true", 2, 0, marks=SLOW),
        pytest.param("true", 2, 3, marks=SLOW),
        pytest.param("passes", 2, 2, marks=SLOW),
    ],
)
@pytest.mark.parametrize("adaptation", ["full", "houlsby"])
def test_gradient_checkpointing_changes_nothing(
    train: Train, adaptation: str, how: str, ranks: int, stage: int
) -> None:
    run = train(ADAPTATIONS[adaptation], f"zero.stage={stage}", f"train.gradient_checkpointing={how}", ranks=ranks)
    assert_same_curve(run, train(ADAPTATIONS[adaptation]))


@SLOW
def test_gradient_checkpointing_repeats_the_dropout_of_the_forward_pass(train: Train) -> None:
    dropout = ["model.item_encoder.dropout=0.2", "model.user_encoder.dropout=0.2"]
    off = train(*dropout)
    for how in ("true", "passes"):
        assert_same_curve(train(*dropout, f"train.gradient_checkpointing={how}"), off)
