"""Run folders whose phases took invented seconds, by constants that are known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from transrec.config import validate
from transrec.experiment import Experiment
from transrec.planning.laws import LAWS
from transrec.planning.rehearsal import Rehearsal, read_rehearsals
from transrec.planning.setting import ParameterCount
from transrec.runs.run_folder import write_run_dir

WINDOWS_OF_A_USER, INTERACTIONS_OF_A_USER = 2, 20
SECONDS = {  # for each amount of the law of a phase
    "start": {"fixed": 3.0, "parameters": 1e-5},
    "scan": {"fixed": 0.5, "interactions": 1e-4},
    "first step": {"fixed": 2.0},
    "steps": {"work": 1e-8, "updates": 1e-7},
    "encoding": {"fixed": 0.5, "items": 1e-3},
    "validation": {"questions": 1e-3, "scores": 1e-5},
    "checkpoint": {"fixed": 1.0, "parameters": 1e-4},
    "test": {"questions": 2e-3, "scores": 2e-5},
    "results": {"fixed": 0.1, "questions": 1e-4},
    "export": {"fixed": 0.2, "parameters": 1e-5},
    "baselines": {"questions": 1e-2, "scores": 1e-5},
}


def experiment(run_dir: Path, **values: Any) -> Experiment:
    model = {
        "width": 8,
        "max_length": 5,
        "item_encoder": {"name": "id_embedding"},
        "user_encoder": {"name": "sasrec", "layers": 1},
        "objective": {"name": "in_batch_softmax"},
    }
    return validate(Experiment, {"run_dir": str(run_dir), "data": {"path": "shards"}, "model": model, **values})


def took(phase: str, amounts: Mapping[str, float]) -> float:
    """The invented seconds of a phase."""
    return sum(SECONDS[phase].get(name, 0.0) * amount for name, amount in amounts.items())


def invent(folder: Path, users: int, items: int, device: str = "cpu", **values: Any) -> Path:
    """A run folder of that size."""
    run = experiment(folder, **values)
    write_run_dir(run)
    (folder / "environment.yaml").write_text(yaml.safe_dump({"device": device, "threads": 1}))
    _write(folder, {name: {"seconds": 1.0} for name in SECONDS}, users, items)
    amounts = read(folder).amounts
    _write(folder, {name: {"seconds": took(name, amounts(name))} for name in SECONDS}, users, items)
    return folder


def read(folder: Path) -> Rehearsal:
    run = experiment(folder)
    (found,) = read_rehearsals([folder], run, ParameterCount(run.model, run))
    return found


def _write(folder: Path, seconds: dict[str, dict[str, float]], users: int, items: int) -> None:
    windows = WINDOWS_OF_A_USER * users
    work: dict[str, dict[str, float]] = {
        "scan": {
            "users": users,
            "items": items,
            "interactions": INTERACTIONS_OF_A_USER * users,
            "bytes_of_users": 100 * users,
            "bytes_of_items": 50 * items,
        },
        "steps": {"windows": windows, "items_encoded": 4 * windows, "item_occurrences": 4 * windows},
        "test": {"questions": 2 * users},
        "results": {"questions": users},
    }
    phases = {
        name: {"processor_seconds": 0.5 * entry["seconds"], "times": 1, **entry, **work.get(name, {})}
        for name, entry in seconds.items()
    }
    summary = {
        "data": {"windows": windows},
        "ranks": 1,
        "peak_memory_bytes": 2**29,
        "flops_per_user": {"forward": 1000, "backward": 2000},
        "flops_by_tower": {"item_encoder": 0.5},
        "work": {"item_occurrences": 40, "items_encoded": 40},
        "users_per_second": 1.0,
        "phases": phases,
    }
    assert LAWS.keys() >= phases.keys()
    (folder / "summary.json").write_text(json.dumps(summary))
