"""The plan of a sweep: its trials, and the runs that they need, without duplicates.

A run is named by a hash of everything that determines its results, so trials that need the same pretraining share one
folder, and a later sweep finds it there.

Designs considered for sharing pretrainings: each trial trains its own under a lock, unless it finds one (waiting trials
occupy their processors, and a lock on shared storage may outlive its owner or be invisible to other nodes); an actor
that hands out leases (its state is lost with the driver). Chosen: pretrainings are tasks of their own, planned here and
run before the adaptations that start from them. No trial waits, and the only lock is on the storage, to exclude a
second driver.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transrec.config import ConfigError, may_differ, validate
from transrec.data.examples import DataConfig
from transrec.data.examples.histories import open_folder
from transrec.data.examples.task import TaskExamplesConfig
from transrec.data.examples.task_targets import ColdStartConfig, FileConfig
from transrec.data.shards.remote import Place
from transrec.experiment import Experiment
from transrec.runs.places import hash_of_weights, weight_folders
from transrec.runs.run_folder import is_among
from transrec.runs.train_and_test import check as check_settings
from transrec.sweeps.config import NO_SOURCE, Axis, Sweep, stage_values
from transrec.training.records import flatten

RUNS_FOLDER = "runs"
_HASH_DIGITS = 16

Stage = Literal["pretraining", "adaptation"]
STAGES: tuple[Stage, ...] = ("pretraining", "adaptation")  # in order of execution


@dataclass(frozen=True)
class Run:
    """A training with its test, in the folder `runs/<hash>`."""

    hash: str
    stage: Stage
    experiment: Experiment
    source: str | None  # hash of the pretraining that it starts from
    rivals: str | None = None  # group of runs that may cause it to be stopped early; None: never stopped


@dataclass(frozen=True)
class Trial:
    """A point of the grid: the run that measures it, and the pretraining from which that run starts."""

    name: str
    axes: dict[str, Any]
    run: str
    source: str | None


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, and the runs that they share."""

    trials: list[Trial]
    runs: dict[str, Run]  # by hash, pretrainings first

    def of(self, stage: Stage) -> list[Run]:
        return [run for run in self.runs.values() if run.stage == stage]


def make_plan(sweep: Sweep) -> Plan:
    """Plan the trials and runs of a sweep.

    Raises:
        ConfigError: a trial's configuration is invalid (the message names its axes), or the fit is not identifiable.
        ShardSetError: a set of shards cannot be read.
    """
    points = _checked_points(sweep)
    hashes = _Hashes()
    trials: list[Trial] = []
    pretrainings: dict[str, Run] = {}
    adaptations: dict[str, Run] = {}
    for number, (axes, overrides) in enumerate(points):
        source = None
        if _has_source(sweep, overrides):
            source = _run(sweep, "pretraining", overrides, axes, None, hashes)
            pretrainings.setdefault(source.hash, source)
        run = _run(sweep, "adaptation", overrides, axes, source, hashes)
        rivals = _rivals(sweep, axes, points)
        known = adaptations.get(run.hash)
        adaptations[run.hash] = replace(run, rivals=rivals if known is None or known.rivals == rivals else None)
        trials.append(Trial(f"{number:05d}-{run.hash[:4]}", axes, run.hash, source.hash if source else None))
    own = {name: run for name, run in adaptations.items() if name not in pretrainings}  # a run from scratch may be both
    return Plan(trials, pretrainings | own)


def check(sweep: Sweep) -> None:
    """Check that a plan can be made, as far as possible without shards.

    Raises:
        ConfigError: as `make_plan`.
    """
    for axes, overrides in _checked_points(sweep):
        source = None
        if _has_source(sweep, overrides):
            _experiment(sweep, "pretraining", overrides, axes, None)
            source = "a pretraining"
        _experiment(sweep, "adaptation", overrides, axes, source)


def remarks(sweep: Sweep) -> list[str]:
    """A warning for each label whose configuration is the same as that of an earlier label of its axis."""
    found = []
    for axes in sweep.grids:
        for axis, labels in axes.items():
            alike: dict[str, Any] = {}
            for label, bundle in labels.items():
                first = alike.setdefault(_configuration(sweep, bundle), label)
                if first != label:
                    found.append(f"grid.{axis}: {first} and {label} give the same configuration")
    return list(dict.fromkeys(found))


def _configuration(sweep: Sweep, bundle: Mapping[str, Any]) -> str:
    """Both stages with the overrides of one label, as text."""
    stages = {}
    for name, values in (("source", sweep.source), ("target", sweep.target)):
        own = stage_values(values or {}, name, bundle)
        with suppress(ConfigError):  # it is complete only together with another axis
            own = validate(Experiment, own | {"run_dir": "."}).model_dump(mode="json") if values else own
        stages[name] = own
    return json.dumps([stages, _has_source(sweep, bundle)], sort_keys=True, default=str)


def _checked_points(sweep: Sweep) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    points = list(_points(sweep))
    check_identifiable(sweep, [axes for axes, _ in points])
    return points


def _points(sweep: Sweep) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(axes, overrides) of every trial; a point that several grids share is yielded once."""
    seen = set()
    for grid in sweep.grids:
        for labels in product(*grid.values()):
            at = dict(zip(grid, labels, strict=True))
            for searched in _draws(sweep):
                axes = at | searched
                key = json.dumps(axes, sort_keys=True)
                if key not in seen:
                    seen.add(key)
                    yield axes, _overrides(grid, at) | {sweep.search[name].key: v for name, v in searched.items()}


def _overrides(grid: Mapping[str, Axis], at: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for name, label in at.items() for key, value in grid[name][label].items()}


def _draws(sweep: Sweep) -> list[dict[str, Any]]:
    """The draws of the searched axes, seeded by the sweep's name so that a resumed sweep has the same trials."""
    rng = np.random.default_rng(list(sweep.name.encode()))
    draws = [{name: search.among.draw(rng) for name, search in sweep.search.items()} for _ in range(sweep.samples)]
    return draws if sweep.search else [{}]


def _has_source(sweep: Sweep, overrides: Mapping[str, Any]) -> bool:
    return sweep.source is not None and NO_SOURCE not in overrides


def _run(
    sweep: Sweep,
    stage: Stage,
    overrides: Mapping[str, Any],
    axes: Mapping[str, Any],
    source: Run | None,
    hashes: "_Hashes",
) -> Run:
    experiment = _experiment(sweep, stage, overrides, axes, source.hash if source else None)
    name = hashes.of(experiment, source)
    experiment = experiment.model_copy(update={"run_dir": experiment.run_dir / name})
    return Run(name, stage, experiment, source.hash if source else None)


def _experiment(
    sweep: Sweep, stage: Stage, overrides: Mapping[str, Any], axes: Mapping[str, Any], source: str | None
) -> Experiment:
    """The configuration of a run, with the folder of all runs as `run_dir`; `source` is the hash of its pretraining.

    Raises:
        ConfigError: the configuration is invalid, or has no validations for `stopping` to compare.
    """
    name, values = ("source", sweep.source) if stage == "pretraining" else ("target", sweep.target)
    own = stage_values(values or {}, name, overrides)
    runs = (sweep.folder / RUNS_FOLDER).absolute()
    own["run_dir"] = str(runs)
    if source is not None:
        own["init_from"] = str(runs / source)
    try:
        experiment = validate(Experiment, own)
        check_settings(experiment)
        if sweep.stopping is not None and stage == "adaptation" and experiment.train.evaluate_every == "never":
            raise ConfigError("`stopping` compares validations, but there are none: set `target.train.evaluate_every`")
    except ConfigError as error:
        at = ", ".join(f"{name} {label}" for name, label in axes.items())
        raise ConfigError(f"{stage} of the trial{f' at {at}' if at else ''}: {error}") from None
    return experiment


class _Hashes:
    """Hashes of runs; the hash of each shard set and of each folder of weights is read once."""

    def __init__(self) -> None:
        self._shards: dict[str, str] = {}
        self._weights: dict[Path, str | None] = {}

    def of(self, experiment: Experiment, source: Run | None) -> str:
        """The hash of everything that determines a run's results, and nothing else; its folder does not count."""
        fields = flatten(experiment.model_dump(mode="json", exclude={"run_dir", "init_from"}))
        how = may_differ(experiment)
        known = {key: value for key, value in fields.items() if not is_among(key, how)}
        known |= {key: self._of_weights(place) for key, place in weight_folders(experiment).items() if key in known}
        known["shards"] = self._of_shards(experiment.data, experiment.data.path)
        match experiment.data.examples:
            case TaskExamplesConfig(targets=ColdStartConfig(target=place)):
                known["targets"] = self._of_shards(experiment.data, place)
            case TaskExamplesConfig(targets=FileConfig(path=path)):
                known["targets"] = _of_files([path])
        if source is not None:
            known["source"] = source.hash
        elif experiment.init_from is not None:
            known["source"] = _of_export(experiment.init_from)
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:_HASH_DIGITS]

    def _of_shards(self, data: DataConfig, path: Place) -> str:
        place = str(path)
        if place not in self._shards:
            self._shards[place] = open_folder(data, path).index_sha256
        return self._shards[place]

    def _of_weights(self, folder: Path) -> str | None:
        if folder not in self._weights:
            self._weights[folder] = hash_of_weights(folder)
        return self._weights[folder]


def _of_export(run_dir: Path) -> str:
    files = sorted((run_dir / "export").glob("*.safetensors"))
    if not files:
        raise ConfigError(f"`target.init_from`: {run_dir} has no exported weights: let that run finish first")
    return _of_files(files)


def _of_files(paths: Iterable[Path]) -> str:
    """A hash of the contents of files.

    Raises:
        ConfigError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _rivals(sweep: Sweep, axes: Mapping[str, Any], points: list[tuple[dict[str, Any], dict[str, Any]]]) -> str | None:
    """The group of runs compared for early stopping: those with the same sizes on the axes in `fit`.

    A run with less data is worse than the others, but the law needs its point just as much. None at the largest size of
    an axis, where no run is stopped early because the fit depends most on that size, and in a sweep without `stopping`.
    """
    sizes = {name: axes[name] for name in sweep.fit}
    largest = any(size == max(other[name] for other, _ in points) for name, size in sizes.items())
    return None if sweep.stopping is None or largest else json.dumps(sizes)


def check_identifiable(sweep: Sweep, points: list[dict[str, Any]]) -> None:
    """Check that a law E + Σ A·D^-α can be fitted along the axes in `fit`.

    The law has a constant and two parameters per axis; to estimate the noise, it needs more sizes than parameters.

    Raises:
        ConfigError: an entry of `fit` is not an axis of numbers, or there are too few sizes.
    """
    for name in sweep.fit:
        values = {axes.get(name) for axes in points}
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise ConfigError(f"`fit`: {name!r} is not an axis of numbers in every grid; remove it, or add it to each")
        if len(values) < 3:
            raise ConfigError(f"`fit`: {name!r} has {len(values)} sizes, but a power law needs 3; add sizes")
    parameters = 1 + 2 * len(sweep.fit)
    cells = {tuple(axes[name] for name in sweep.fit) for axes in points}
    if sweep.fit and len(cells) <= parameters:
        raise ConfigError(
            f"`fit`: the law of {' and '.join(sweep.fit)} has {parameters} parameters, and there are {len(cells)} "
            "sizes: give more sizes than parameters, so that noise can be estimated, or leave `fit` out"
        )
