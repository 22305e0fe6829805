"""The sweep file: axes, stages, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from transrec.config import ConfigError, dump, validate
from transrec.sweeps import plan
from transrec.sweeps.config import Choice, LogUniform, Sweep, Uniform, load_sweep, stage_values

FOLDER = Path(__file__).parents[3] / "configs" / "sweeps"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
MINIMAL: dict[str, Any] = {"name": "s", "storage_path": "somewhere", "source": {}, "target": {}}
MODEL = {
    "width": 8,
    "max_length": 5,
    "item_encoder": {"name": "id_embedding"},
    "user_encoder": {"name": "sasrec"},
    "objective": {"name": "full_softmax"},
}
SEARCH = {"key": "target.seed", "among": {"name": "choice", "values": [1]}}


def sweep(**changes: Any) -> Sweep:
    return validate(Sweep, MINIMAL | changes)


def test_an_axis_is_values_of_a_key_labelled_bundles_or_seeds() -> None:
    (grid,) = sweep(
        grid={
            "size": {"source.data.fraction": [0.1, 1.0]},
            "method": {"full": {"target.adaptation.name": "full"}, "none": {}},
            "seed": [3, 4],
        }
    ).grids
    assert grid["size"] == {0.1: {"source.data.fraction": 0.1}, 1.0: {"source.data.fraction": 1.0}}
    assert grid["method"] == {"full": {"target.adaptation.name": "full"}, "none": {}}
    assert grid["seed"] == {seed: {"source.seed": seed, "target.seed": seed} for seed in (3, 4)}


def test_a_label_may_do_without_the_source() -> None:
    (grid,) = sweep(grid={"method": {"full": {}, "scratch": {"source": None}}}).grids
    assert grid["method"]["scratch"] == {"source": None}


def test_without_a_source_seeds_are_the_targets() -> None:
    (grid,) = sweep(source=None, grid={"seed": [1]}).grids
    assert grid["seed"] == {1: {"target.seed": 1}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grid": {"size": [0.1]}}, "write {KEY"),
        ({"grid": {"size": {"data.fraction": [0.1]}}}, "must begin with `source.` or `target.`"),
        ({"grid": {"m": {"a": {"data.fraction": 1}, "b": {}}}}, "must begin with"),
        ({"grid": {"m": {"a": 1, "b": 2}}}, "that this label overrides"),
        ({"grid": {"m": {"target.adaptation": [{"name": "full"}]}}}, "need labels"),
        ({"grid": {"m": {"target.train.steps": [1, 1]}}}, "target.train.steps lists 1 more than once"),
        ({"grid": {"m": {"target.train.steps": []}}}, "target.train.steps has no values"),
        ({"grid": {"m": {"target.init_from": [1]}}, "source": {}}, "set by the sweep"),
        ({"grid": {"m": {"source.seed": [1]}}, "source": None}, "this sweep has none"),
        ({"grid": {"m": {"scratch": {"source": None}}}, "source": None}, "write `target.init_from: null` instead"),
        ({"grid": {"m": {"scratch": {"source": {}}}}}, "must begin with"),
        ({"target": {"run_dir": "x"}}, "target.run_dir is set by the sweep"),
        ({"name": "../x"}, "name"),
        ({"storage_path": "s3://bucket/sweeps"}, "storage_path.*s3://bucket/sweeps is a URL: mount"),
        ({"resources": {"workers": 2, "gpus": 0.5}}, "must be a whole number"),
        ({"resources": {"cpus": 0}}, "a CPU or a GPU"),
        ({"grid": {"lr": {"target.seed": [1]}}, "search": {"lr": SEARCH}}, "of the grid and of the search"),
        (
            {"grid": {"a": {"target.train.steps": [1, 2]}, "b": {"x": {"target.train.steps": 3}, "y": {}}}},
            "grid.a and grid.b both set 'target.train.steps'",
        ),
        ({"grid": {"a": {"target.seed": [1, 2]}, "seed": [1]}}, "grid.a and grid.seed both set 'target.seed'"),
        (
            {"grid": {"a": {"target.seed": [1, 2]}}, "search": {"b": SEARCH}},
            "grid.a and search.b both set 'target.seed'",
        ),
        ({"search": {"a": SEARCH, "b": SEARCH}, "samples": 2}, "search.a and search.b both set 'target.seed'"),
        (
            {"grid": {"layers": {"target.model.layers": [1, 2]}, "model": {"x": {"target.model": {"layers": 3}}}}},
            "grid.layers and grid.model conflict: one sets 'target.model.layers', the other overwrites it",
        ),
        (  # a new name discards what was set before
            {
                "grid": {
                    "sites": {"x": {"target.adaptation.sites": ["ffn"]}, "y": {}},
                    "method": {"x": {"target.adaptation": {"name": "lora"}}, "y": {}},
                }
            },
            "grid.sites and grid.method conflict: one sets 'target.adaptation.sites'",
        ),
        (
            {"grid": {"m": {"x": {"target.model": {"layers": 3}, "target.model.layers": 4}, "y": {}}}},
            "grid.m: a label sets 'target.model', and another of its keys overwrites it",
        ),
    ],
)
def test_what_is_no_sweep_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sweep(**changes)


def test_an_axis_may_complete_what_an_earlier_one_chose() -> None:
    methods = {name: {"target.adaptation": {"name": name}} for name in ("houlsby", "lora")}
    assert sweep(grid={"method": methods, "sites": {"x": {"target.adaptation.sites": ["ffn"]}, "y": {}}})


def test_axes_that_both_do_without_the_source_do_not_conflict() -> None:
    scratch = {"scratch": {"source": None}, "transfer": {}}
    assert sweep(grid={"a": scratch, "b": scratch, "size": {"source.data.fraction": [0.1, 1.0]}})


def test_labels_with_the_same_configuration_are_told(synthetic_shards: Path) -> None:
    run = {"data": {"path": str(synthetic_shards)}, "model": MODEL}
    labels = {
        "full": {"target.adaptation.name": "full"},
        "default": {},
        "again": {"target.seed": 0},
        "other": {"target.seed": 1},
    }
    read = sweep(source=None, target=run, grid={"method": labels, "batch": {"target.train.batch_size": [8, 16]}})
    assert plan.remarks(read) == [
        "grid.method: full and default give the same configuration",
        "grid.method: full and again give the same configuration",
    ]
    assert not plan.remarks(sweep(grid={"m": {"scratch": {"source": None}, "transfer": {}}}))


def test_a_stage_is_merged_over_its_base_and_the_command_line_over_both(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("data: {path: there, fraction: 0.5}\nseed: 1\n")
    values = MINIMAL | {"target": {"base": "base.yaml", "data": {"fraction": 0.25}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    read = load_sweep(tmp_path / "sweep.yaml", ["target.data.path=here", "retries=3"])
    assert read.target == {"data": {"path": "here", "fraction": 0.25}, "seed": 1}
    assert read.retries == 3


def test_dotted_overrides_of_a_stage_leave_the_other_alone() -> None:
    values = {"adaptation": {"name": "houlsby", "towers": ["item"]}, "seed": 0}
    overrides = {"target.adaptation.name": "full", "target.data.fraction": 0.5, "source.seed": 9}
    assert stage_values(values, "target", overrides) == {
        "adaptation": {"name": "full"},
        "seed": 0,
        "data": {"fraction": 0.5},
    }
    assert stage_values(values, "source", overrides) == values | {"seed": 9}


def test_draws_lie_where_they_should() -> None:
    rng = np.random.default_rng(0)
    uniform = [Uniform(name="uniform", low=2, high=4).draw(rng) for _ in range(500)]
    assert 2 <= min(uniform) < 2.1
    assert 3.9 < max(uniform) <= 4
    logs = np.log10([LogUniform(name="loguniform", low=1e-4, high=1e-2).draw(rng) for _ in range(500)])
    assert -4 <= logs.min() < -3.9
    assert abs(np.median(logs) + 3) < 0.2
    assert {Choice(name="choice", values=["a", "b"]).draw(rng) for _ in range(50)} == {"a", "b"}


@pytest.mark.parametrize("name", FILES)
def test_the_sweeps_that_come_with_the_project_resolve_and_round_trip(name: str, tmp_path: Path) -> None:
    read = load_sweep(FOLDER / name)
    (tmp_path / "sweep.yaml").write_text(dump(read), encoding="utf-8")
    assert load_sweep(tmp_path / "sweep.yaml") == read


@pytest.mark.parametrize("name", FILES)
def test_every_trial_of_the_sweeps_that_come_with_the_project_is_a_run_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "open_folder", lambda *place: SimpleNamespace(index_sha256=str(place[0].path)))
    trials = plan.make_plan(load_sweep(FOLDER / name)).trials
    assert len({trial.run for trial in trials}) == len(trials)
