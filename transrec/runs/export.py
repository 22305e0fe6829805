"""`export/config.json`: what the weights of an export are for."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transrec import weights
from transrec.config import ConfigError
from transrec.data.examples.task import TaskExamplesConfig
from transrec.experiment import Experiment
from transrec.protocols import Examples


def export_config(experiment: Experiment, examples: Examples) -> dict[str, Any]:
    """The contents of `export/config.json`."""
    index, kind = examples.folder.index, experiment.data.examples
    return {
        "architecture": "transrec",
        "transrec_version": version("transrec"),
        "num_items": index.counts.items,
        "item_ids_sha256": index.item_ids_sha256,
        "model": experiment.model.model_dump(mode="json"),
        "adaptation": experiment.adaptation.model_dump(mode="json"),
        "seed": experiment.seed,
        "init_from": str(experiment.init_from) if experiment.init_from else None,
        "init_except": experiment.init_except,
        "task": kind.targets.model_dump(mode="json") if isinstance(kind, TaskExamplesConfig) else None,
        "targets": None if examples.targets.of_items else examples.target_names().to_pylist(),
        "evaluation": experiment.evaluation.model_dump(mode="json"),
    }


def read_export_config(export: Path) -> dict[str, Any]:
    try:
        return json.loads((export / weights.CONFIG_FILE).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{export.parent} has no export yet: let its training reach a validation") from None


def is_adapted(export: Path) -> bool:
    """Does an export hold what was trained only, to be used with a base?"""
    return (export / weights.ADAPTER_FILE).exists()
