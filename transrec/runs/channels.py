"""Channels: runs that were adapted from the same base, each with its own adapter, used side by side.

A channel is given as its run folder or as the run's `export/`, which may have been copied elsewhere. Everything except
the adapter is shared with the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from transrec.config import ConfigError, validate
from transrec.data.shards.schema import ShardIndex
from transrec.evaluation.metrics import metric
from transrec.experiment import Experiment
from transrec.models import ModelConfig
from transrec.protocols import Model
from transrec.runs.export import is_adapted, read_export
from transrec.runs.rebuild import Base, check_catalogue, rebuild_for
from transrec.runs.run_folder import CONFIG_FILE, load


@dataclass(frozen=True)
class Channel:
    """A run or an adapter, as given to a command."""

    folder: Path  # as given by the user
    export: Path
    experiment: Experiment
    has_data: bool = True  # False: the configured shards are those of the base

    @property
    def name(self) -> str:
        return self.export.parent.name if self.folder == self.export and self.has_data else self.folder.name

    @property
    def model(self) -> ModelConfig:
        """The model configuration, with all required files, such as the tokenizer, taken from the export."""
        return self.experiment.model.from_export(self.export)


class Channels:
    """The channels given to a command, in order.

    Args:
        run: the run to use; with adapters, their base run (None: the `init_from` of the first adapter).
        adapters: run folders or exports.

    Raises:
        ConfigError: a folder is neither a run nor an adapter's export, or an adapter holds a whole model.
    """

    def __init__(self, run: Path | None, adapters: Sequence[Path], device: torch.device) -> None:
        self._over_one_base, self._device = bool(adapters), device
        if adapters:
            self.members = [read_adapter(path, run) for path in adapters]
        elif run is not None:
            self.members = [Channel(run, run / "export", load(run))]
        else:
            raise ConfigError("name a run (--run), or adapters (--adapter), or both")

    def build(self, channel: Channel, index: ShardIndex) -> Model:
        """The channel's model for the items of `index`; the base is loaded once for all channels.

        Raises:
            WeightsError: the adapter was trained on a base other than that of the first channel.
        """
        if not self._over_one_base:
            return rebuild_for(channel.experiment, channel.folder, index).to(self._device)
        check_catalogue(channel.experiment, channel.export, index)
        return self._base.with_adapter(channel.experiment, channel.export, index.counts.items)

    @cached_property
    def _base(self) -> Base:
        first = self.members[0]
        return Base.load(first.experiment, first.export, read_export(first.export).num_items).to(self._device)


def read_adapter(folder: Path, base: Path | None) -> Channel:
    """The channel of a run folder or an export; `base` replaces the `init_from` it was trained with."""
    run_dir = folder.parent if folder.name == "export" and (folder.parent / CONFIG_FILE).exists() else folder
    alone = not (run_dir / CONFIG_FILE).exists()
    export = folder if alone else run_dir / "export"
    read_export(export)
    if not is_adapted(export):
        raise ConfigError(f"{folder} holds a whole model, not an adapter: name it with --run")
    experiment = _over(base, export) if alone else load(run_dir)
    if base is not None:
        experiment = experiment.model_copy(update={"init_from": base})
    return Channel(folder, export, experiment, has_data=not alone)


def _over(base: Path | None, export: Path) -> Experiment:
    """The experiment of an export without its run folder: settings not in the export are those of the base."""
    if base is None:
        raise ConfigError(f"{export} is not in its run folder: name its base with --run")
    described = read_export(export)
    own = described.model_dump(include={"seed", "model", "init_except", "adaptation", "evaluation"})
    values: dict[str, Any] = {**load(base).model_dump(mode="json"), "init_from": str(base), **own}
    if described.task is not None:
        values["data"]["examples"] = {"name": "task", "targets": described.task}
    metrics = described.evaluation["metrics"]
    values["train"]["monitor"] = next((m for m in metrics if metric(m).higher_is_better is not None), metrics[0])
    return validate(Experiment, values)
