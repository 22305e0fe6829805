"""Untrained runs of each kind of user encoder, whose vectors and towers are exported."""

from pathlib import Path
from typing import Any

from tiny_world import Tiny
from untrained_runs import export_run, make

from transrec import load_run
from transrec.config import validate
from transrec.experiment import Experiment
from transrec.runs.recommender import Recommender

MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {},
    "gru4rec": {"user_encoder": {"name": "gru4rec"}},
    "nextitnet_untied": {
        "user_encoder": {"name": "nextitnet", "dilations": [1, 4]},
        "objective": {"name": "sampled_softmax"},
        "output": "untied",
    },
    "bert4rec_cloze": {"user_encoder": {"name": "bert4rec"}, "objective": {"name": "cloze"}},
    "cosine": {"similarity": "cosine", "objective": {"name": "full_softmax", "temperature": 0.1}},
}


def untrained(run_dir: Path, tiny: Tiny, shards: Path | None = None, **model: Any) -> Recommender:
    """A run over the texts of `shards`, by default those of the tiny world, with other `model` settings."""
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16}
    values = make(run_dir, shards or tiny.shards, text).model_dump(mode="json")
    values["model"].update(model)
    export_run(validate(Experiment, values), moved=0.01)
    return load_run(run_dir)


def random_ids(ids: list[str], count: int, longest: int = 9) -> list[list[str]]:
    """Histories of 1 to `longest` items."""
    return [[ids[(7 * i + 3 * j * j) % len(ids)] for j in range(1 + i % longest)] for i in range(count)]
