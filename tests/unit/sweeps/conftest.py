"""Sweeps over tiny shards, planned only or carried out by an executor that trains nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transrec.config import validate
from transrec.sweeps.config import Sweep


@pytest.fixture(scope="session")
def shards(build_shards: Callable[..., Path]) -> Path:
    return build_shards({f"user-{i}": [1, 2, 3, 4, 5, 6] for i in range(12)}, n_items=6)


@pytest.fixture
def make_sweep(shards: Path, tmp_path: Path) -> Callable[..., Sweep]:
    """`make_sweep(grid={...}, ...)`: an id model on a source and a target that are the same shards."""

    def make_sweep(**changes: Any) -> Sweep:
        stage = {
            "data": {"path": str(shards)},
            "model": {
                "name": "sequential_recommender",
                "item_encoder": {"name": "id_embedding"},
                "user_encoder": {"name": "sasrec"},
                "objective": {"name": "full_softmax"},
            },
        }
        values = {"name": "tiny", "storage_path": str(tmp_path / "storage"), "source": stage, "target": stage} | changes
        return validate(Sweep, values)

    return make_sweep
