"""`export/config.json`: the model, catalogue and adaptation that the weights of an export belong to.

Formats: 1, of version 0.1.0, has neither the field `format` nor `shards_sha256`; 2 has both. The other fields are the
same.
"""

import json
from pathlib import Path
from typing import Any, Literal

from transrec import __version__, weights
from transrec.config import Config, ConfigError, validate
from transrec.data.examples.task import TaskExamplesConfig
from transrec.experiment import Experiment
from transrec.protocols import Examples

FORMAT = 2


class Export(Config):
    """The contents of `export/config.json`."""

    format: Literal[1, 2] = 1
    architecture: Literal["transrec"]
    transrec_version: str
    num_items: int  # of the catalogue
    item_ids_sha256: str
    shards_sha256: str | None = None  # of the index.json of the training shards; None: not recorded
    model: dict[str, Any]  # section of the run's configuration, like those below
    adaptation: dict[str, Any]
    seed: int
    init_from: str | None
    init_except: list[str]
    task: dict[str, Any] | None  # source of the targets; None: the items are predicted
    targets: list[str] | None  # names of the task's targets, in order
    evaluation: dict[str, Any]


def describe(experiment: Experiment, examples: Examples) -> Export:
    """The description of a run's export."""
    index, kind = examples.folder.index, experiment.data.examples
    return Export(
        format=FORMAT,
        architecture="transrec",
        transrec_version=__version__,
        num_items=index.counts.items,
        item_ids_sha256=index.item_ids_sha256,
        shards_sha256=examples.folder.index_sha256,
        model=experiment.model.model_dump(mode="json"),
        adaptation=experiment.adaptation.model_dump(mode="json"),
        seed=experiment.seed,
        init_from=str(experiment.init_from) if experiment.init_from else None,
        init_except=experiment.init_except,
        task=kind.targets.model_dump(mode="json") if isinstance(kind, TaskExamplesConfig) else None,
        targets=None if examples.targets.of_items else examples.target_names().to_pylist(),
        evaluation=experiment.evaluation.model_dump(mode="json"),
    )


def read_export(export: Path) -> Export:
    """
    Raises:
        ConfigError: there is no export, or it is damaged or has an unsupported format.
    """
    path = export / weights.CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{export.parent} has no export yet: train it until its first validation") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): export the run anew") from None
    if not isinstance(values, dict) or values.get("format", 1) not in (1, FORMAT):
        written = values.get("format") if isinstance(values, dict) else None
        raise ConfigError(f"{path} has format {written}, this version reads up to {FORMAT}: use a newer TransRec")
    try:
        return validate(Export, values)
    except ConfigError as error:
        raise ConfigError(f"{path} is not the description of an export: {error}") from None


def is_adapted(export: Path) -> bool:
    """Whether an export holds only the trained weights, and needs a base."""
    return (export / weights.ADAPTER_FILE).exists()
