"""`export/config.json`: the model, catalogue and adaptation that the weights of an export belong to.

Format 1, of version 0.1.0, lacks the fields `format` and `shards_sha256`; format 2 has them. The other fields are the
same.
"""

from pathlib import Path
from typing import Any, Literal

from torch import nn

from transrec import __version__, weights
from transrec.config import Config, ConfigError, validate
from transrec.data.examples.task import TaskExamplesConfig
from transrec.errors import TransRecError
from transrec.experiment import Experiment
from transrec.files import read_json
from transrec.protocols import Examples

FORMAT = 2
EXPORT_FOLDER = "export"
_AGAIN = "start the training command again, which restores the export from the checkpoints"


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
        values = read_json(path)
    except OSError:
        raise ConfigError(_why_missing(export)) from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): {_AGAIN}") from None
    if not isinstance(values, dict) or values.get("format", 1) not in (1, FORMAT):
        written = values.get("format") if isinstance(values, dict) else None
        raise ConfigError(
            f"{path} has format {written}, but this version reads formats up to {FORMAT}: use a newer TransRec"
        )
    try:
        return validate(Export, values)
    except ConfigError as error:
        raise ConfigError(f"{path} is not the description of an export: {error}") from None


def _why_missing(export: Path) -> str:
    run_dir = export.parent
    named = run_dir if export.name == EXPORT_FOLDER else export
    if not named.exists():
        return f"{named} does not exist: give the folder to which it was moved"
    if export.name != EXPORT_FOLDER:
        return f"{export} is neither a run folder nor an export: it has no {weights.CONFIG_FILE}"
    if any((run_dir / "checkpoints").glob("step-*")):
        return f"{run_dir} has no export: {_AGAIN}"
    return f"{run_dir} has no export yet: train the run until its first validation"


def damage(export: Path, model: nn.Module) -> str | None:
    """A fault in the export of a run whose trained model is `model`; None if there is none."""
    try:
        read_export(export)
        for path in export.rglob("*.json"):
            read_json(path)
        if problems := weights.misfits_of_export(export, model):
            return f"{export} does not fit the model ({problems[0]})"
    except TransRecError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"{path} is damaged ({error})"
    return None


def is_adapted(export: Path) -> bool:
    """Whether an export holds only the trained weights, and needs a base."""
    return (export / weights.ADAPTER_FILE).exists()
