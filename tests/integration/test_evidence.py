"""Evidence in real runs: on several ranks, after an interruption, on another catalogue, and in recommendations."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Finished, ForkedCommands, json_lines, refused
from run_folder import exported, hashes, losses
from tiny_world import COMPARABLE, Tiny, build_shards

from transrec.evidence.cold_similarity import ColdSimilarityConfig

KINDS = "co_occurrence", "content_similarity", "cold_similarity"
EVIDENCE = f"model.evidence=[{', '.join(f'{{name: {kind}, neighbours: 20}}' for kind in KINDS)}]"
OBJECTIVES = {
    "full": "model.objective={name: full_softmax}",
    "next_item": "model.objective={name: next_item}",
    "sampled": "model.objective={name: sampled_softmax}",
    "cosine": "model.objective={name: in_batch_softmax, temperature: 0.1, learn_temperature: true}",
}
TERMS = "co_occurrence", "text_similarity", "cold_text_similarity"
Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Train:
    """Train with evidence, unless the session did so before; gives the run folder."""
    done: dict[tuple[object, ...], Path] = {}

    def train(*overrides: str, ranks: int = 1) -> Path:
        key = (overrides, ranks)
        if key not in done:
            run_dir = tmp_path_factory.mktemp("evidence") / "run"
            finished = commands.run("train", *arguments(tiny, run_dir), *overrides, ranks=ranks)
            assert finished.code == 0, finished.stderr
            done[key] = run_dir
        return done[key]

    return train


def arguments(tiny: Tiny, run_dir: Path) -> list[str | Path]:
    return ["--config", tiny.config, f"run_dir={run_dir}", *COMPARABLE, OBJECTIVES["full"], EVIDENCE]


def results_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary["test"] | summary["baselines"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_weights_of_evidence_are_fitted(train: Train, objective: str) -> None:
    similarity = "model.similarity=" + ("cosine" if objective == "cosine" else "dot")
    weights = exported(train(OBJECTIVES[objective], similarity))
    assert {name for name in weights if name.startswith("evidence.")} == {
        "evidence.network",
        *(f"evidence.{kind}.{part}" for kind in TERMS for part in ("weight", "log_scale")),
    }
    for kind in TERMS[:2]:
        assert abs(weights[f"evidence.{kind}.weight"].item() - 1) > 1e-4
    assert weights["evidence.cold_text_similarity.weight"].item() == pytest.approx(ColdSimilarityConfig().weight)


def test_the_network_is_trained_as_without_evidence(train: Train) -> None:
    with_evidence, without = train(), train("model.evidence=[]")
    assert losses(with_evidence) == losses(without)
    weights = exported(with_evidence)
    assert all((tensor == weights[name]).all() for name, tensor in exported(without).items())


@pytest.mark.parametrize(
    ("stage", "ranks"), [(0, 2), (3, 2), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_ranks_and_stages_change_nothing(train: Train, stage: int, ranks: int) -> None:
    alone, together = train(), train(f"zero.stage={stage}", ranks=ranks)
    assert hashes(together) == hashes(alone)
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-5)
    assert results_of(together)["co_occurrence"] == results_of(alone)["co_occurrence"]
    fitted = {name: tensor for name, tensor in exported(together).items() if name.startswith("evidence.")}
    expected = exported(alone)
    assert fitted
    for name, tensor in fitted.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0.02, atol=0.02)


def test_loader_processes_change_nothing(train: Train) -> None:
    assert losses(train("data.workers=2")) == losses(train())


def test_a_finished_run_that_is_tested_again_exports_the_same(
    train: Train, tiny: Tiny, commands: ForkedCommands, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(train(), run_dir)
    (run_dir / "summary.json").unlink()
    assert commands.run("train", *arguments(tiny, run_dir)).code == 0
    expected = exported(train())
    assert all((tensor == expected[name]).all() for name, tensor in exported(run_dir).items())


def test_a_resumed_run_is_the_uninterrupted_one(
    train: Train, tiny: Tiny, commands: ForkedCommands, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    command = [*arguments(tiny, run_dir), "train.checkpoint_every=4"]
    running = commands.start("train", *command)
    running.wait_until(lambda: len(losses(run_dir)) >= 6)
    running.signal(signal.SIGKILL)
    running.wait()
    assert commands.run("train", *command).code == 0
    expected = exported(train())
    assert all((tensor == expected[name]).all() for name, tensor in exported(run_dir).items())


def test_counts_stay_with_the_data_and_weights_travel(
    train: Train, tiny: Tiny, commands: ForkedCommands, tmp_path: Path
) -> None:
    other = build_shards(tmp_path / "other", users=50, items=60, interactions=600, seed=5)
    source, target = train(f"{EVIDENCE[:-2]}, weight: 0.7}}]"), tmp_path / "target"
    finished = commands.run(
        "train",
        *arguments(tiny, target),
        *(f"data.path={other}", "data.fraction=1.0", f"init_from={source}", "train.steps=1", "optimizer.lr.head=1e-9"),
    )
    assert finished.code == 0, finished.stderr
    assert exported(target)["evidence.cold_text_similarity.weight"].item() == pytest.approx(0.7)
    before = len(counted(tiny))
    third = build_shards(tmp_path / "third", users=40, items=50, interactions=500, seed=6)
    assert commands.run("evaluate", "--run", source, "--data", third).code == 0
    assert len(counted(tiny)) > before


def test_a_source_without_evidence_is_answered_with_what_to_leave_fresh(
    train: Train, tiny: Tiny, commands: ForkedCommands, tmp_path: Path
) -> None:
    command = [*arguments(tiny, tmp_path / "target"), f"init_from={train('model.evidence=[]')}"]
    assert "init_except=[evidence]" in refused(commands.run("train", *command))
    assert commands.run("train", *command, "init_except=[evidence]").code == 0


def test_evaluation_of_the_run_repeats_its_test(train: Train, commands: ForkedCommands) -> None:
    found, expected = evaluated(commands.run("evaluate", "--run", train())), results_of(train())
    assert found["NDCG@10"] == pytest.approx(expected["NDCG@10"], rel=1e-6)


def test_recommendations_know_the_evidence(train: Train, commands: ForkedCommands) -> None:
    history = ["--history", "item-3,item-17,item-9"]
    with_evidence, without = (
        commands.run("recommend", "--run", run, *history) for run in (train(), train("model.evidence=[]"))
    )
    assert with_evidence.code == without.code == 0
    assert with_evidence.stdout != without.stdout


def test_a_model_of_ids_needs_a_backbone_for_content(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    ids = "model.item_encoder={name: id_embedding}"
    command = [*arguments(tiny, tmp_path / "run"), ids]
    assert "set the `backbone` of text_similarity" in refused(commands.run("train", *command))
    named = f"model.evidence=[{{name: content_similarity, backbone: {tiny.backbone}, max_tokens: 16}}]"
    assert commands.run("train", *command, named).code == 0


def counted(tiny: Tiny) -> list[Path]:
    return list((tiny.config.parent / "cache").glob("evidence-*"))


def evaluated(finished: Finished) -> dict[str, Any]:
    [result] = json_lines(finished)
    return result["test"]  # type: ignore[no-any-return]
