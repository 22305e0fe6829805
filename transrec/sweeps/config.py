"""The sweep file: two stages written like any configuration, and the axes along which trials differ.

    name: example
    storage_path: runs/sweeps
    source: {base: ../transrec/text_sasrec.yaml, data: {path: shards/big}}      # optional: the pretraining
    target: {base: ../transrec/text_sasrec.yaml, data: {path: shards/small}}
    grid:
      source_fraction: {source.data.fraction: [0.1, 0.3, 1.0]}                  # an axis: values of one key,
      method:                                                                   # or labelled bundles of keys
        full: {target.adaptation.name: full}
        houlsby: {target.adaptation.name: houlsby}
        scratch: {source: null, target.adaptation.name: full}                   # trains from scratch
      seed: [0, 1, 2]                                                           # set in both stages

`grid` may be a list of grids; the sweep runs the trials of all of them. A `base:` path is relative to the sweep file.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from transrec.config import Config, UserPath, merge, parse_overrides, read_yaml, validate, with_base
from transrec.experiment import Experiment

STAGES = ("source", "target")
SEED = "seed"  # the axis that may be a plain list
NO_SOURCE = "source"  # `source: null` in a label: its trials train from scratch


class Uniform(Config):
    """A uniform distribution between two bounds."""

    name: Literal["uniform"] = Field(description="uniform distribution")
    low: float = Field(description="the smallest value")
    high: float = Field(description="the largest value")

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))

    def examples(self) -> list[Any]:
        """Values that represent the distribution when the axes are checked for conflicts."""
        return [self.low]


class LogUniform(Config):
    """A distribution between two bounds whose logarithm is uniform."""

    name: Literal["loguniform"] = Field(description="uniform distribution of the logarithm")
    low: float = Field(gt=0, description="the smallest value")
    high: float = Field(gt=0, description="the largest value")

    def draw(self, rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))

    def examples(self) -> list[Any]:
        """As `Uniform.examples`."""
        return [self.low]


class Choice(Config):
    """A uniform distribution over a list of values."""

    name: Literal["choice"] = Field(description="uniform choice from a list")
    values: list[Any] = Field(min_length=1, description="the values to draw from")

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def examples(self) -> list[Any]:
        """As `Uniform.examples`."""
        return self.values


class Search(Config):
    """One searched key: `{key: target.optimizer.lr.head, among: {name: loguniform, low: 1e-4, high: 1e-2}}`."""

    key: str = Field(description="dotted key of a stage: target.optimizer.lr.head")
    among: Annotated[Uniform | LogUniform | Choice, Field(discriminator="name")] = Field(
        description="the distribution of its values"
    )


class Resources(Config):
    """The resources of one run. Without GPUs, a worker uses its CPUs."""

    workers: int = Field(1, ge=1, description="number of ranks; Ray Train starts them if more than one")
    cpus: float = Field(1, ge=0, description="CPUs per worker")
    gpus: float = Field(0, ge=0, description="GPUs per worker; with 0.5, two runs share a GPU")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cpus + self.gpus == 0:
            raise ValueError("a worker needs a CPU or a GPU; set `cpus` or `gpus` above 0")
        if self.workers > 1 and self.gpus % 1:
            raise ValueError(
                "with several workers, `gpus` must be a whole number: otherwise ranks of one run would share a GPU"
            )
        return self


class Asha(Config):
    """Stops the worst runs at steps grace, grace·factor, … (Li et al., MLSys 2020)."""

    name: Literal["asha"] = Field(description="successive halving")
    grace: int = Field(ge=1, description="steps before a run may be stopped")
    factor: int = Field(3, ge=2, description="one run in this many continues")


class Median(Config):
    """Stops runs that are worse than the median of the other runs' running averages (Golovin et al., KDD 2017)."""

    name: Literal["median"] = Field(description="the median stopping rule")
    grace: int = Field(ge=1, description="steps before a run may be stopped")


class Sweep(Config):
    """The configuration of a sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="the sweep's folder in storage_path")
    storage_path: UserPath = Field(description="folder that holds sweeps; every node must see it at this path")
    source: dict[str, Any] | None = Field(None, description="the pretraining; without it only the target is trained")
    target: dict[str, Any] = Field(description="the stage that every trial trains and tests")
    grid: dict[str, Any] | list[dict[str, Any]] = Field({}, description="values by axis; a list holds several grids")
    search: dict[str, Search] = Field({}, description="axes whose values are drawn at random, each with its key")
    samples: int = Field(1, ge=1, description="draws of the searched axes, the same at every point of the grid")
    fit: list[str] = Field([], description="size axes along which laws are fitted; refused if these have too few sizes")
    resources: Resources = Field(Resources(), description="resources of each run")
    concurrent: int | None = Field(None, ge=1, description="most runs at once; null: as many as the resources allow")
    stopping: Annotated[Asha | Median, Field(discriminator="name")] | None = Field(
        None, description="rule that stops adaptations early; null: none"
    )
    retries: int = Field(1, ge=0, description="retries of a failed run, each from its last checkpoint")

    @property
    def folder(self) -> Path:
        return self.storage_path / self.name

    @property
    def grids(self) -> list[dict[str, "Axis"]]:
        grids = self.grid if isinstance(self.grid, list) else [self.grid]
        return [{name: read_axis(name, values, self.source is not None) for name, values in g.items()} for g in grids]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for stage in STAGES:
            for key in _set_by_the_sweep(self.source is not None):
                if key in (getattr(self, stage) or {}):
                    raise ValueError(f"{stage}.{key} is set by the sweep: leave it out")
        for axes in self.grids:
            if twice := axes.keys() & self.search.keys():
                raise ValueError(f"{min(twice)!r} is an axis of the grid and of the search: leave one out")
            _check_overlap(self, axes)
        for name, search in self.search.items():
            _check_key(name, search.key, self.source is not None)
        if self.search and self.samples == 1 and not self.grid:
            raise ValueError("set `samples`: the search would try only one point")
        return self


Axis = Mapping[str, Mapping[str, Any]]  # label -> overrides by dotted key; a listed value is its own label


def read_axis(name: str, values: Any, with_source: bool) -> dict[Any, dict[str, Any]]:
    """The overrides of each label (or listed value) of an axis, in the order of the file.

    Designs considered for trials that do not start from the pretraining of the others: `target.init_from: null`, which
    is a key that the sweep sets itself; a grid in a separate file, whose trials cannot be compared with the others.
    Chosen: `source: null`, which means the same for a label as for a sweep.

    Raises:
        ValueError: the axis is neither values of one key nor labelled bundles of keys.
    """
    if name == SEED and isinstance(values, list):
        stages = STAGES if with_source else STAGES[1:]
        return {seed: {f"{stage}.seed": seed for stage in stages} for seed in values}
    if not isinstance(values, Mapping) or not values:
        raise ValueError(
            f"grid.{name} is {values!r}: write {{KEY: [value, …]}} or {{LABEL: {{KEY: value, …}}, …}} instead"
        )
    if len(values) == 1 and isinstance(listed := next(iter(values.values())), list):
        key = next(iter(values))
        _check_key(name, key, with_source)
        if any(isinstance(value, list | dict) for value in listed):
            raise ValueError(
                f"grid.{name}: values other than numbers and words need labels, as in {{LABEL: {{{key}: value}}}}"
            )
        if not listed:
            raise ValueError(f"grid.{name}: {key} has no values; list at least one")
        if twice := [value for value in listed if listed.count(value) > 1]:
            raise ValueError(f"grid.{name}: {key} lists {twice[0]!r} more than once; list each value once")
        return {value: {key: value} for value in listed}
    for label, bundle in values.items():
        if not isinstance(bundle, Mapping):
            raise ValueError(
                f"grid.{name}.{label} is {bundle!r}: write {{KEY: value, …}} of the keys that this label overrides"
            )
        for key, value in bundle.items():
            if key == NO_SOURCE and value is None and with_source:
                continue
            _check_key(f"{name}.{label}", key, with_source)
    return {label: dict(bundle) for label, bundle in values.items()}


def _set_by_the_sweep(with_source: bool) -> tuple[str, ...]:
    """Keys that the sweep sets itself; without a source stage, `target.init_from` may name a run."""
    return ("run_dir", "init_from") if with_source else ("run_dir",)


def _check_key(axis: str, key: str, with_source: bool) -> None:
    stage, _, field = key.partition(".")
    if key == NO_SOURCE and not with_source:
        raise ValueError(
            f"{axis}: this sweep has no `source` to switch off: to train from scratch, write `target.init_from: null` "
            "instead"
        )
    if stage not in STAGES or not field:
        raise ValueError(f"{axis}: {key!r} must begin with `source.` or `target.`")
    if stage == "source" and not with_source:
        raise ValueError(f"{axis}: {key!r} belongs to the source, but this sweep has none; add one, or remove the key")
    if field in _set_by_the_sweep(with_source):
        raise ValueError(f"{axis}: {key!r} is set by the sweep; leave it out")


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and merge each stage over the file that its `base:` names.

    Raises:
        ConfigError: as `transrec.config.load`.
    """
    values = merge(read_yaml(path), parse_overrides(overrides, Sweep, source=Experiment, target=Experiment))
    for stage in STAGES:
        if isinstance(values.get(stage), dict):
            values[stage] = with_base(path, values[stage])
    return validate(Sweep, values)


def stage_values(values: Mapping[str, Any], stage: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a stage with the dotted `overrides` that belong to it."""
    own = {key.removeprefix(f"{stage}."): value for key, value in overrides.items() if key.startswith(f"{stage}.")}
    merged = dict(values)
    for key, value in own.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        merged = merge(merged, nested)
    return merged


def _check_overlap(sweep: "Sweep", axes: Mapping[str, "Axis"]) -> None:
    """Refuse an axis that overwrites a key set by another, because the labels of the other would then be wrong.

    Raises:
        ValueError: two axes, or two keys of one label, conflict; the message names both.
    """
    named = {f"grid.{axis}": list(labels.values()) for axis, labels in axes.items()}
    named |= {
        f"search.{name}": [{one.key: value} for value in one.among.examples()] for name, one in sweep.search.items()
    }
    for name, bundles in named.items():
        for bundle in bundles:
            for key in _lost(sweep, bundle):
                raise ValueError(
                    f"{name}: a label sets {key!r}, and another of its keys overwrites it: keep only one of them"
                )
    for (one, bundles), (other, others) in combinations(named.items(), 2):
        twice = {key for bundle in bundles for key in bundle} & {key for bundle in others for key in bundle}
        for key in sorted(twice - {NO_SOURCE}):
            raise ValueError(
                f"{one} and {other} both set {key!r}, so the labels of one would be wrong: set it in only one of them"
            )
        for bundle, its in product(bundles, others):
            for key in _lost(sweep, {**bundle, **its}):
                raise ValueError(
                    f"{one} and {other} conflict: one sets {key!r}, the other overwrites it, so labels would be wrong; "
                    "let one axis set both, or put the axis of the outer key first"
                )


def _lost(sweep: "Sweep", overrides: Mapping[str, Any]) -> Iterator[str]:
    """The keys whose values are missing from the configuration after all overrides."""
    stages = {stage: stage_values(getattr(sweep, stage) or {}, stage, overrides) for stage in STAGES}
    for key, value in overrides.items():
        found: Any = stages
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if key != NO_SOURCE and not _holds(found, value):
            yield key


def _holds(found: Any, value: Any) -> bool:
    """Whether a merged value still has everything that was set."""
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        return all(_holds(found.get(key), inner) for key, inner in value.items())
    return bool(found == value)
