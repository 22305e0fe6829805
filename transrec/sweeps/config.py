"""The sweep file: two stages written like any configuration, and the axes along which trials differ.

    name: example
    storage_path: runs/sweeps
    source: {base: ../transrec/text_sasrec.yaml, data: {path: shards/big}}      # optional: what every trial starts from
    target: {base: ../transrec/text_sasrec.yaml, data: {path: shards/small}}
    grid:
      source_fraction: {source.data.fraction: [0.1, 0.3, 1.0]}                  # an axis: values of one key,
      method:                                                                   # or labelled bundles of keys
        full: {target.adaptation.name: full}
        houlsby: {target.adaptation.name: houlsby}
        scratch: {source: null, target.adaptation.name: full}                   # starts from nothing
      seed: [0, 1, 2]                                                           # of both stages

`grid` may be a list of grids; their trials are done together. A `base:` is relative to the sweep file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from transrec.config import Config, UserPath, merge, parse_overrides, read_yaml, validate, with_base

STAGES = ("source", "target")
SEED = "seed"  # the axis that may be a plain list
NO_SOURCE = "source"  # `source: null` in a label: its trials start from nothing


class Uniform(Config):
    """Values drawn with equal density between two bounds."""

    name: Literal["uniform"] = Field(description="equal density")
    low: float = Field(description="the smallest value")
    high: float = Field(description="the largest value")

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))


class LogUniform(Config):
    """Values whose logarithm is drawn with equal density between two bounds."""

    name: Literal["loguniform"] = Field(description="equal density of the logarithm")
    low: float = Field(gt=0, description="the smallest value")
    high: float = Field(gt=0, description="the largest value")

    def draw(self, rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


class Choice(Config):
    """Values drawn from a list, each with the same chance."""

    name: Literal["choice"] = Field(description="one of a list")
    values: list[Any] = Field(min_length=1, description="the values to draw from")

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]


class Search(Config):
    """One searched key: `{key: target.optimizer.lr.head, among: {name: loguniform, low: 1e-4, high: 1e-2}}`."""

    key: str = Field(description="dotted key of a stage: target.optimizer.lr.head")
    among: Annotated[Uniform | LogUniform | Choice, Field(discriminator="name")] = Field(
        description="the distribution of its values"
    )


class Resources(Config):
    """Of one run. Without GPUs a worker computes on its CPUs."""

    workers: int = Field(1, ge=1, description="ranks; several are started by Ray Train")
    cpus: float = Field(1, ge=0, description="for each worker")
    gpus: float = Field(0, ge=0, description="for each worker; 0.5: two runs share a GPU")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cpus + self.gpus == 0:
            raise ValueError("a worker needs a CPU or a GPU")
        if self.workers > 1 and self.gpus % 1:
            raise ValueError("several workers need whole GPUs: the ranks of one run would meet on the same one")
        return self


class Asha(Config):
    """Stops what is behind at steps grace, grace·factor, … (Li et al., MLSys 2020)."""

    name: Literal["asha"] = Field(description="successive halving")
    grace: int = Field(ge=1, description="steps before a run may be stopped")
    factor: int = Field(3, ge=2, description="one of so many goes on")


class Median(Config):
    """Stops what is worse than the median of the others' running averages (Golovin et al., KDD 2017)."""

    name: Literal["median"] = Field(description="the median stopping rule")
    grace: int = Field(ge=1, description="steps before a run may be stopped")


class Sweep(Config):
    """The configuration of a sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="the sweep's folder in storage_path")
    storage_path: UserPath = Field(description="folder of sweeps; every node must see it under this path")
    source: dict[str, Any] | None = Field(None, description="what is pretrained; without it only the target is trained")
    target: dict[str, Any] = Field(description="what is trained and tested in every trial")
    grid: dict[str, Any] | list[dict[str, Any]] = Field({}, description="axis -> values; a list: several grids")
    search: dict[str, Search] = Field({}, description="axis -> a key whose values are drawn")
    samples: int = Field(1, ge=1, description="draws of the searched axes, the same at every point of the grid")
    fit: list[str] = Field([], description="axes of sizes that a law is to be fitted along: refused if too few sizes")
    resources: Resources = Field(Resources(), description="of each run")
    concurrent: int | None = Field(None, ge=1, description="runs at once, at most; null: what the resources allow")
    stopping: Annotated[Asha | Median, Field(discriminator="name")] | None = Field(
        None, description="which adaptations are stopped before their end; null: none"
    )
    retries: int = Field(1, ge=0, description="of a run that failed, each from its last checkpoint")

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
        for axis in self.grids:
            if twice := axis.keys() & self.search.keys():
                raise ValueError(f"{min(twice)!r} is an axis of the grid and of the search")
        for name, search in self.search.items():
            _check_key(name, search.key, self.source is not None)
        if self.search and self.samples == 1 and not self.grid:
            raise ValueError("set `samples`: the search would try one point")
        return self


Axis = Mapping[str, Mapping[str, Any]]  # label -> overrides by dotted key; numbers are labels of themselves


def read_axis(name: str, values: Any, with_source: bool) -> dict[Any, dict[str, Any]]:
    """Label (or number) -> what it overrides, in the order of the file.

    Designs considered for what is trained without the pretraining that the others start from: `target.init_from: null`
    names a key that the sweep sets itself; a grid of its own, in another file, cannot be compared with the others.
    Taken: `source: null`, which says of a label what it says of a sweep.

    Raises:
        ValueError: neither values of one key nor labelled bundles of keys.
    """
    if name == SEED and isinstance(values, list):
        stages = STAGES if with_source else STAGES[1:]
        return {seed: {f"{stage}.seed": seed for stage in stages} for seed in values}
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"grid.{name}: write {{KEY: [value, …]}} or {{LABEL: {{KEY: value, …}}, …}}")
    if len(values) == 1 and isinstance(listed := next(iter(values.values())), list):
        key = next(iter(values))
        _check_key(name, key, with_source)
        if any(isinstance(value, list | dict) for value in listed):
            raise ValueError(
                f"grid.{name}: values that are no numbers or words need labels: {{LABEL: {{{key}: value}}}}"
            )
        if len(listed) != len(set(listed)) or not listed:
            raise ValueError(f"grid.{name}: give every value of {key} once")
        return {value: {key: value} for value in listed}
    for label, bundle in values.items():
        if not isinstance(bundle, Mapping):
            raise ValueError(f"grid.{name}.{label}: write {{KEY: value, …}}, what this label overrides")
        for key, value in bundle.items():
            if key == NO_SOURCE and value is None and with_source:
                continue
            _check_key(f"{name}.{label}", key, with_source)
    return {label: dict(bundle) for label, bundle in values.items()}


def _set_by_the_sweep(with_source: bool) -> tuple[str, ...]:
    """Without a source of its own a sweep may start from a run that is named."""
    return ("run_dir", "init_from") if with_source else ("run_dir",)


def _check_key(axis: str, key: str, with_source: bool) -> None:
    stage, _, field = key.partition(".")
    if stage not in STAGES or not field:
        raise ValueError(f"{axis}: {key!r} must begin with `source.` or `target.`")
    if stage == "source" and not with_source:
        raise ValueError(f"{axis}: {key!r} belongs to a source, which this sweep has not")
    if field in _set_by_the_sweep(with_source):
        raise ValueError(f"{axis}: {key!r} is set by the sweep")


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, its stages merged over the files their `base:` names.

    Raises:
        ConfigError: as `transrec.config.load`.
    """
    values = merge(read_yaml(path), parse_overrides(overrides))
    for stage in STAGES:
        if isinstance(values.get(stage), dict):
            values[stage] = with_base(path, values[stage])
    return validate(Sweep, values)


def stage_values(values: Mapping[str, Any], stage: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's configuration with those of the dotted `overrides` that are its own."""
    own = {key.removeprefix(f"{stage}."): value for key, value in overrides.items() if key.startswith(f"{stage}.")}
    merged = dict(values)
    for key, value in own.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        merged = merge(merged, nested)
    return merged
