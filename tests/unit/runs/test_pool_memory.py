"""A pool of the catalogue that cannot fit into memory is refused before the first batch is made."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import Tiny
from untrained_runs import make

from transrec.config import ConfigError
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs import pool_memory
from transrec.runs.build import Parts, build
from transrec.runs.pool_memory import check_pool, kept_bytes

TABLE = 4 * 60 / 2**30  # GiB of a position's scores of the items of the synthetic shards


def check(experiment: Experiment, parts: Parts | None = None) -> None:
    parts = parts or build(experiment, World())
    check_pool(experiment, parts.model, parts.examples, parts.store, 1, torch.device("cpu"))


def ids(tmp_path: Path, shards: Path, objective: dict[str, Any], **train: Any) -> Experiment:
    model = {"objective": objective, "max_length": 5, "width": 8, "item_encoder": {"name": "id_embedding"}}
    user_encoder = {"name": "bert4rec" if objective["name"] == "cloze" else "sasrec", "layers": 1}
    return make(tmp_path / "run", shards, model=model | {"user_encoder": user_encoder}, train=train)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "full_softmax"}, "full_softmax over 60 items .* choose the objective in_batch_softmax or sampled_s"),
        ({"name": "sampled_softmax"}, "sampled_softmax over 12 items .* lower model.objective.candidates or choose"),
        ({"name": "cloze"}, "cloze over 60 items .* set model.objective.candidates=0.01"),
        ({"name": "cloze", "candidates": 0.5}, "cloze over 30 items .* lower model.objective.candidates$"),
    ],
)
def test_the_objective_to_take_instead_is_named(
    tmp_path: Path, synthetic_shards: Path, objective: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(ids(tmp_path, synthetic_shards, objective, pool_memory=1e-9))


@pytest.mark.parametrize("objective", ["next_item", "in_batch_softmax", "cpc"])
def test_a_pool_of_the_batch_has_no_limit(tmp_path: Path, synthetic_shards: Path, objective: str) -> None:
    check(ids(tmp_path, synthetic_shards, {"name": objective}, pool_memory=1e-9))


def test_a_rank_scores_its_own_part_of_a_step(tmp_path: Path, synthetic_shards: Path) -> None:
    """Accumulation makes that part smaller, here smaller than the 128 positions that are scored at a time."""
    objective, limit = {"name": "full_softmax"}, 100 * TABLE
    with pytest.raises(ConfigError, match="at 320 positions"):
        check(ids(tmp_path, synthetic_shards, objective, pool_memory=limit))
    check(ids(tmp_path, synthetic_shards, objective, pool_memory=limit, accumulation=4))


def test_the_limit_is_the_memory_of_the_device(
    tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ids(tmp_path, synthetic_shards, {"name": "full_softmax"})
    assert pool_memory.memory(torch.device("cpu")) > 2**28
    check(experiment)
    monkeypatch.setattr(pool_memory, "memory", lambda device: 2**10)
    with pytest.raises(ConfigError, match=r"only 0\.0 GiB are available"):
        check(experiment)


def test_the_items_of_an_encoder_that_learns_count(tmp_path: Path, tiny: Tiny) -> None:
    """Where their scores alone would fit."""
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16}
    scores = 64 * 5 * 80 * 8 / 2**30
    for name, fits in (("frozen_backbone", True), ("full", False)):
        train = {"pool_memory": 2 * scores}
        experiment = make(tmp_path / name, tiny.shards, text, adaptation={"name": name}, train=train)
        with nullcontext() if fits else pytest.raises(ConfigError, match=r"GiB on each rank, 0\.0 to encode them"):
            check(experiment)


def test_what_an_encoder_keeps_grows_with_the_items_and_vanishes_if_it_is_frozen(tmp_path: Path, tiny: Tiny) -> None:
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16}
    trained, frozen = (
        build(make(tmp_path / name, tiny.shards, text, adaptation={"name": name}), World())
        for name in ("full", "frozen_backbone")
    )
    few, many = (trained.store.content(trained.examples.ranked[:n]) for n in (8, 64))
    before = torch.get_rng_state()
    kept = kept_bytes(trained.model, many, autocast=False)
    assert kept == pytest.approx(8 * kept_bytes(trained.model, few, autocast=False), rel=0.4)
    assert kept > 20 * kept_bytes(frozen.model, many, autocast=False)
    assert torch.equal(torch.get_rng_state(), before)
