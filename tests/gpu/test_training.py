"""A GPU gives the losses of a CPU: in every ZeRO stage, adaptation and objective, nearly in 16 bits, and on resume.

Measured limits: float32 sums differ by their order, 16 bits by their 8 or 11 bits of fraction. fp16 skips the first
updates, until its loss scale is low enough, so only its first loss can be compared.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import Runs
from run_folder import exported, losses, records
from tiny_world import ADAPTATIONS, USER_MODELS

STAGES = {f"stage {stage}": [f"zero.stage={stage}"] for stage in range(4)}
BF16, FP16 = (
    {f"{name} stage {stage}": [f"train.precision={name}", f"zero.stage={stage}"] for stage in (0, 2)}
    for name in ("bf16", "fp16")
)
BF16 |= {f"bf16 weights stage {stage}": ["train.precision=bf16_weights", f"zero.stage={stage}"] for stage in (1, 3)}
MODELS = {
    **{f"adapted {name}": [setting] for name, setting in ADAPTATIONS.items()},
    "lora in stage 3": [ADAPTATIONS["lora"], "zero.stage=3"],
    **USER_MODELS,
    "in_batch": ["model.objective={name: in_batch_softmax}"],
    "full_softmax": ["model.objective={name: full_softmax}"],
    "evidence": ["model.evidence=[{name: co_occurrence}, {name: transitions}]"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "checkpointing by passes": ["train.gradient_checkpointing=passes"],
    "compiled": ["train.compile=true"],
    "cold items": ["model.evidence=[{name: content_similarity}, {name: cold_similarity}]"],
    "workers": ["data.workers=2"],
}
LONG = ["train.steps=400", "train.checkpoint_every=100", "data.workers=1"]


@pytest.fixture(scope="module", autouse=True)
def started(runs: Runs) -> None:
    runs.start("cpu", cpu=True)
    runs.start("unbroken", *LONG)
    runs.start("stopped", *LONG)
    runs.start("again")
    for name, overrides in (STAGES | BF16 | FP16).items():
        runs.start(name, *overrides)
    for name, overrides in MODELS.items():
        runs.start(name, *overrides)
        runs.start(f"{name} on the cpu", *overrides, cpu=True)


def relative(run: Path, reference: Path, steps: int = 6) -> float:
    """The largest difference among the first losses; later ones depend on the weights that those have made."""
    pairs = list(zip(losses(run), losses(reference), strict=True))[:steps]
    assert len(pairs) == steps
    return max(abs(a - b) / abs(b) for a, b in pairs)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(runs: Runs) -> None:
    assert runs.stop_after("stopped", step=50).code == 143
    runs.start("stopped", *LONG)
    stopped = runs.ended("stopped")
    first, second = (record["step"] for record in records(stopped, "start"))
    assert first == 0 < second
    assert losses(stopped) == losses(runs.ended("unbroken"))


def test_the_same_run_twice(runs: Runs) -> None:
    first, again = runs.ended("stage 0"), runs.ended("again")
    assert losses(first) == losses(again)
    assert all(tensor.equal(exported(again)[name]) for name, tensor in exported(first).items())


@pytest.mark.parametrize("name", STAGES)
def test_stages(runs: Runs, name: str) -> None:
    assert relative(runs.ended(name), runs.ended("cpu")) < 1e-4


@pytest.mark.parametrize("name", BF16)
def test_bf16(runs: Runs, name: str) -> None:
    assert relative(runs.ended(name), runs.ended("cpu")) < 3e-2


@pytest.mark.parametrize("name", FP16)
def test_fp16(runs: Runs, name: str) -> None:
    found = losses(runs.ended(name))
    assert found[0] == pytest.approx(losses(runs.ended("cpu"))[0], rel=1e-3)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("name", MODELS)
def test_models(runs: Runs, name: str) -> None:
    assert relative(runs.ended(name), runs.ended(f"{name} on the cpu")) < 1e-4


def test_the_same_users_are_ranked_as_high(runs: Runs) -> None:
    """Scores that a GPU and a CPU round differently may exchange two items of nearly equal score."""
    found = [json.loads((runs.ended(name) / "summary.json").read_text())["test"] for name in ("stage 0", "cpu")]
    for metric in ("HR@10", "NDCG@10", "MRR@10"):
        assert found[0][metric] == pytest.approx(found[1][metric], abs=0.02), metric


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_that_of_the_device(runs: Runs) -> None:
    peak = json.loads((runs.ended("stage 0") / "summary.json").read_text())["peak_memory_bytes"]
    assert 0 < peak < 2**28  # the process itself takes gigabytes
