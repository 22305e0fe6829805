"""A sweep of tiny runs, and what it leaves behind; for integration tests."""

import json
from pathlib import Path
from typing import Any

from transrec.runs.summary import SUMMARY_FILE
from transrec.sweeps import records
from transrec.sweeps.records import Record


def write_sweep(folder: Path, shards: Path, **changes: Any) -> Path:
    """Two pretrainings, four adaptations, of ids; each takes seconds."""
    stage = {
        "data": {"path": str(shards), "workers": 0, "cache": str(folder / "cache")},
        "model": {
            "name": "sequential_recommender",
            "width": 16,
            "max_length": 8,
            "item_encoder": {"name": "id_embedding"},
            "user_encoder": {"name": "sasrec", "layers": 1},
            "objective": {"name": "full_softmax"},
        },
        "train": {"steps": 20, "batch_size": 16, "evaluate_every": 10, "checkpoint_every": 5},
    }
    values = {
        "name": "tiny",
        "storage_path": str(folder / "storage"),
        "source": stage,
        "target": stage,
        "grid": {
            "size": {"source.data.fraction": [0.3, 1.0]},
            "method": {"full": {"target.adaptation.name": "full"}, "head": {"target.adaptation.name": "head_only"}},
        },
    } | changes
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # YAML that repeats instead of referring
    return path


def left(folder: Path, name: str = "tiny") -> list[Record]:
    return records.read(folder / "storage" / name)


def finished(folder: Path) -> dict[str, int]:
    """When each finished run ended, by its name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"storage/*/runs/*/{SUMMARY_FILE}")}
