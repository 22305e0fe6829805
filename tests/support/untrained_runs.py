"""Run folders as training leaves them, without the training."""

from pathlib import Path
from typing import Any

import torch

from transrec import weights
from transrec.config import validate
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.export import describe
from transrec.runs.run_folder import write_run_dir

HOULSBY = {"name": "houlsby", "towers": ["user"], "sites": ["ffn_output"], "bottleneck": {"user": 3}}


def make(run_dir: Path, shards: Path, item_encoder: dict[str, Any] | None = None, **values: Any) -> Experiment:
    """A small model, by default over ID embeddings, which need no backbone."""
    model = {
        "width": 8,
        "max_length": 5,
        "item_encoder": item_encoder or {"name": "id_embedding"},
        "user_encoder": {"name": "sasrec", "layers": 1},
        "objective": {"name": "full_softmax"},
    }
    data = {"path": str(shards), "cache": str(run_dir.parent / "cache")}
    return validate(Experiment, {"run_dir": str(run_dir), "data": data, "model": model, **values})


def export_run(experiment: Experiment, moved: float = 0.25) -> torch.nn.Module:
    """What training would leave in the run folder, with weights nothing else has; returns the model."""
    parts = build(experiment, World())
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter += moved
    write_run_dir(experiment)
    frozen = any(not parameter.requires_grad for parameter in parts.model.parameters())
    described = describe(experiment, parts.examples).model_dump()
    base = parts.base if frozen else None
    weights.export(experiment.run_dir / "export", parts.model, described, base, write_files=True)
    experiment.model.save_assets(experiment.run_dir / "export")
    return parts.model


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
