"""PeterRec whole: one pretrained network, several tasks over it, by the real commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import Commands, ForkedCommands, json_lines, refused
from run_folder import exported, hashes, losses
from tiny_world import COMPARABLE, Tiny, build_shards

from transrec import weights
from transrec.data.examples.histories import open_folder
from transrec.evaluation.macro_f1 import macro_f1
from transrec.runs.channels import Channels

CONFIGS = Path(__file__).parents[2] / "configs/peterrec"
SMALL = [
    "model.width=16",
    "model.max_length=8",
    "model.user_encoder.dilations=[1,2]",
    "data.workers=0",
    "train.batch_size=16",
    "train.steps=4",
    "train.log_every=1",
    "train.evaluate_every=never",
    "train.checkpoint_every=never",
]
PACE = "data.examples.targets={name: profile, column: pace}"
RANKED = ["evaluation.metrics=[MRR@5, HR@5, NDCG@5, sampled_99_HR@5]", "train.monitor=MRR@5"]


def train(commands: Commands, config: str, run_dir: Path, *more: str, ranks: int = 1) -> Path:
    arguments = ["--config", CONFIGS / f"{config}.yaml", f"run_dir={run_dir}", *SMALL, *more]
    finished = commands.run("train", *arguments, ranks=ranks)
    assert finished.code == 0, finished.stderr
    return run_dir


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def data(runs: Path, tiny: Tiny) -> list[str]:
    return [f"data.path={tiny.shards}", f"data.cache={runs / 'cache'}"]


@pytest.fixture(scope="module")
def other(runs: Path) -> Path:
    """Another platform: the same users, other items, of which the first have the same ids."""
    return build_shards(runs / "other", users=150, items=40, interactions=1500, seed=7)


@pytest.fixture(scope="module")
def pretrained(runs: Path, data: list[str], commands: ForkedCommands) -> Path:
    return train(commands, "nextitnet", runs / "pretrained", *data)


@pytest.fixture(scope="module")
def profile(runs: Path, data: list[str], commands: ForkedCommands, pretrained: Path) -> Path:
    return train(commands, "peter_rec", runs / "profile", *data, PACE, f"init_from={pretrained}")


@pytest.fixture(scope="module")
def cold_start(runs: Path, data: list[str], commands: ForkedCommands, pretrained: Path, other: Path) -> Path:
    task = f"data.examples.targets={{name: cold_start, target: {other}}}"
    loss = "model.objective={loss: bpr}"
    return train(commands, "peter_rec", runs / "cold", *data, task, loss, *RANKED, f"init_from={pretrained}")


def test_a_task_is_measured_beside_its_baselines(profile: Path, cold_start: Path) -> None:
    assert {"accuracy", "macro_F1", "macro_F1_interval"} < summary(profile)["test"].keys()
    ranked = summary(cold_start)["test"]
    assert 0 < ranked["MRR@5"] <= ranked["HR@5"] <= ranked["sampled_99_HR@5"]
    assert {"most_frequent"} <= summary(profile)["baselines"].keys() <= {"most_frequent", "logistic_regression"}
    assert "macro_F1" in summary(profile)["baselines"]["most_frequent"]


def test_what_was_asked_of_whom_is_kept(profile: Path, cold_start: Path, other: Path) -> None:
    tested = pq.read_table(profile / "test_users.parquet").to_pydict()
    assert {*tested["target"], *tested["predicted"]} <= {"restless", "steady"}
    right = np.array(tested["target"]) == np.array(tested["predicted"])
    assert right.mean() == pytest.approx(summary(profile)["test"]["accuracy"])
    assert macro_f1(
        *(torch.tensor([name == "steady" for name in tested[c]]) for c in ("target", "predicted"))
    ).value == (pytest.approx(summary(profile)["test"]["macro_F1"]))
    ranked = pq.read_table(cold_start / "test_users.parquet").to_pydict()
    assert "predicted" not in ranked
    items = pq.read_table(other / "items.parquet")["item_id"].to_pylist()
    assert set(ranked["target"]) <= set(items)
    assert len(set(zip(ranked["user_id"], ranked["target"], strict=True))) == len(ranked["rank"])


def test_an_export_holds_patches_norms_and_the_head_of_the_task_alone(profile: Path, pretrained: Path) -> None:
    learnt, base = exported(profile), exported(pretrained)
    assert learnt["task.targets.weight"].shape == (2, 16)
    assert learnt["task.token.weight"].shape == (1, 16)
    rest = [name for name in learnt if not name.startswith("task.")]
    assert rest
    assert all(".adapter." in name or ".norm2." in name for name in rest)
    assert {"output.vectors.weight", "item_encoder.embedding.weight"} < base.keys()
    described = json.loads((profile / "export/config.json").read_text())
    assert described["targets"] == ["restless", "steady"]
    assert described["task"]["column"] == "pace"


def test_what_is_frozen_is_the_pretrained_network_to_the_bit(profile: Path, pretrained: Path, tiny: Tiny) -> None:
    channels = Channels(None, [profile], torch.device("cpu"))
    model = channels.build(channels.members[0], open_folder(channels.members[0].experiment.data).index)
    base, trained = exported(pretrained), set(weights.trainable_names(model))
    frozen = [name for name in weights.names(model) if name not in trained]
    assert any(".conv1." in name for name in frozen)
    assert "item_encoder.embedding.weight" in frozen
    for name in frozen:
        assert torch.equal(model.state_dict()[name], base[name]), name


# One backbone, many tasks


def test_tasks_over_one_backbone_measure_what_their_runs_did(
    commands: ForkedCommands, profile: Path, cold_start: Path
) -> None:
    finished = commands.run("evaluate", "--adapter", profile, cold_start)
    for run_dir, result in zip((profile, cold_start), json_lines(finished), strict=True):
        assert result["test"] == summary(run_dir)["test"], run_dir.name
    assert finished.stdout.count("most_frequent") == 2


def test_an_export_of_a_task_is_used_away_from_its_run(
    commands: ForkedCommands, profile: Path, pretrained: Path, tiny: Tiny, tmp_path: Path
) -> None:
    moved = tmp_path / "pace"
    moved.mkdir()
    for file in (profile / "export").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    (result,) = json_lines(commands.run("evaluate", "--run", pretrained, "--adapter", moved, "--data", tiny.shards))
    assert result["test"] == summary(profile)["test"]


def test_histories_are_answered_with_targets_and_probabilities(
    commands: ForkedCommands, profile: Path, cold_start: Path, tmp_path: Path
) -> None:
    histories = tmp_path / "histories.jsonl"
    histories.write_text('{"user": "ann", "history": ["item-3", "item-17"]}\n')
    of_profile, of_cold = json_lines(
        commands.run("recommend", "--histories", histories, "--adapter", profile, cold_start)
    )
    classes = {found["target"]: found["probability"] for found in of_profile["recommendations"]}
    assert classes.keys() == {"restless", "steady"}
    assert sum(classes.values()) == pytest.approx(1, abs=1e-5)
    assert len(of_cold["recommendations"]) == 10
    shown = commands.run("recommend", "--history", "item-3", "--run", profile)
    assert "steady" in shown.stdout, shown.stderr


# Refusals


def test_other_targets_than_the_run_knows_are_refused(
    commands: ForkedCommands, cold_start: Path, profile: Path, other: Path
) -> None:
    refusal = refused(commands.run("evaluate", "--run", profile, "--data", other))
    assert "embeds the item ids of another catalogue" in refusal
    exported_to = cold_start / "export/config.json"
    described = json.loads(exported_to.read_text())
    exported_to.write_text(json.dumps(described | {"targets": ["item-x", *described["targets"][1:]]}))
    try:
        assert "(40) and of the data (40) differ, for example item-0, item-x: use data" in refused(
            commands.run("evaluate", "--run", cold_start)
        )
    finally:
        exported_to.write_text(json.dumps(described))


def test_a_backbone_of_another_catalogue_is_refused(
    commands: ForkedCommands, pretrained: Path, other: Path, run_dir: Path
) -> None:
    config = ["--config", CONFIGS / "peter_rec.yaml", f"run_dir={run_dir}", *SMALL, PACE]
    refusal = refused(commands.run("train", *config, f"data.path={other}", f"init_from={pretrained}"))
    assert "embeds the item ids of another catalogue" in refusal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.examples={name: next_item}"], "data.examples.name=task and model.objective.name=classification belong"),
        (["data.task={name: profile, column: pace}"], "`data.task: TARGETS` is now `data.examples: {name: task"),
        (["model.output=untied"], "set model.output=tied"),
        (["data.split.name=temporal"], "a task splits users"),
        ([], "name a trained run with `init_from`"),
    ],
)
def test_settings_that_do_not_fit_are_explained(
    commands: ForkedCommands, data: list[str], run_dir: Path, settings: list[str], message: str
) -> None:
    config = ["--config", CONFIGS / "peter_rec.yaml", f"run_dir={run_dir}", *SMALL, *data, PACE]
    assert message in refused(commands.run("train", *config, *settings))


# The rest of the family, on one and on two ranks


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fine_all", "fine_cls", "fine_last1", "fine_last2"])
def test_every_baseline_trains_from_the_same_backbone(
    commands: ForkedCommands, data: list[str], pretrained: Path, run_dir: Path, config: str
) -> None:
    train(commands, config, run_dir, *data, PACE, f"init_from={pretrained}")
    learnt = exported(run_dir)
    assert "task.targets.weight" in learnt
    layers = {name.rsplit(".", 2)[0] for name in learnt if not name.startswith("task.")}
    if config == "fine_cls":
        assert not layers
    if config == "fine_last2":
        assert all(layer.startswith("user_encoder.blocks.1") for layer in layers)


@pytest.mark.slow
def test_cloze_pretraining_serves_tasks_that_look_both_ways(
    commands: ForkedCommands, data: list[str], runs: Path, run_dir: Path
) -> None:
    source = train(commands, "nextitnet_cloze", runs / "cloze", *data)
    train(commands, "peter_rec", run_dir, *data, PACE, f"init_from={source}", "model.user_encoder.causal=false")
    assert "mask_token.token.weight" in exported(source)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_learn_a_task_as_one_does(
    commands: ForkedCommands, data: list[str], pretrained: Path, runs: Path, run_dir: Path, stage: int
) -> None:
    settings = [*data, PACE, f"init_from={pretrained}", *(c for c in COMPARABLE if "dropout" not in c)]
    one = runs / "one"
    if not one.exists():
        train(commands, "peter_rec", one, *settings)
    train(commands, "peter_rec", run_dir, *settings, f"zero.stage={stage}", ranks=2)
    assert hashes(run_dir) == hashes(one)
    np.testing.assert_allclose(losses(run_dir), losses(one), rtol=1e-5)
    for name, tensor in exported(one).items():
        torch.testing.assert_close(exported(run_dir)[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_task_goes_on_bit_for_bit(
    commands: ForkedCommands, data: list[str], pretrained: Path, runs: Path, run_dir: Path
) -> None:
    longer = [*data, PACE, f"init_from={pretrained}", "train.steps=40", "train.checkpoint_every=4"]
    whole = train(commands, "peter_rec", runs / "whole", *longer)
    arguments = ["--config", CONFIGS / "peter_rec.yaml", f"run_dir={run_dir}", *SMALL, *longer]
    running = commands.start("train", *arguments)
    running.wait_until(lambda: len(losses(run_dir)) >= 6)
    running.kill()
    assert not (run_dir / "summary.json").exists(), "the run was over before it could be killed"
    train(commands, "peter_rec", run_dir, *longer)
    assert losses(run_dir) == losses(whole)
    assert hashes(run_dir) == hashes(whole)
    assert all(torch.equal(tensor, exported(whole)[name]) for name, tensor in exported(run_dir).items())
