"""From a sweep to its trials and runs: what is shared, what a run is named by, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transrec.config import ConfigError, validate
from transrec.sweeps.config import Asha, Sweep
from transrec.sweeps.plan import Plan, check, make_plan

SIZES = {"source.data.fraction": [0.25, 0.5, 1.0]}
FOUR_SIZES = {"source.data.fraction": [0.125, 0.25, 0.5, 1.0]}
METHODS = {"full": {"target.adaptation.name": "full"}, "head": {"target.adaptation.name": "head_only"}}


def test_trials_are_the_product_of_the_axes_in_their_order(make_sweep: Any) -> None:
    plan = make_plan(make_sweep(grid={"size": SIZES, "method": METHODS, "seed": [0, 1]}))
    assert [trial.axes for trial in plan.trials[:3]] == [
        {"size": 0.25, "method": "full", "seed": 0},
        {"size": 0.25, "method": "full", "seed": 1},
        {"size": 0.25, "method": "head", "seed": 0},
    ]
    assert len(plan.trials) == 12
    assert len({trial.name for trial in plan.trials}) == 12


def test_a_pretraining_is_planned_once_for_all_that_start_from_it(make_sweep: Any) -> None:
    plan = make_plan(make_sweep(grid={"size": SIZES, "method": METHODS, "seed": [0, 1]}))
    assert (len(plan.of("pretraining")), len(plan.of("adaptation"))) == (6, 12)
    assert list(plan.runs)[:6] == [run.hash for run in plan.of("pretraining")]
    for trial in plan.trials:
        run = plan.runs[trial.run]
        assert run.source == trial.source
        assert run.experiment.init_from == plan.runs[trial.source].experiment.run_dir
        assert plan.runs[trial.source].experiment.data.fraction == trial.axes["size"]
        assert run.experiment.adaptation.name.startswith(trial.axes["method"])
        assert run.experiment.run_dir.name == trial.run


def test_without_a_source_trials_only_train(make_sweep: Any) -> None:
    plan = make_plan(make_sweep(source=None, grid={"seed": [0, 1]}))
    assert not plan.of("pretraining")
    assert [trial.source for trial in plan.trials] == [None, None]


def test_a_label_without_a_source_starts_from_nothing_whatever_the_others_start_from(make_sweep: Any) -> None:
    methods = METHODS | {"scratch": {"source": None, "target.adaptation.name": "full"}}
    plan = make_plan(make_sweep(grid={"size": SIZES, "method": methods}))
    scratch = [trial for trial in plan.trials if trial.axes["method"] == "scratch"]
    assert len(plan.of("pretraining")) == 3
    assert [trial.source for trial in scratch] == [None] * 3
    assert len({trial.run for trial in scratch}) == 1, "no size of the source makes it another run"
    assert plan.runs[scratch[0].run].experiment.init_from is None
    assert scratch[0].run not in {trial.run for trial in plan.trials if trial.axes["method"] == "full"}


def only_run(sweep: Sweep) -> str:
    (trial,) = make_plan(sweep).trials
    return trial.run


def changed(sweep: Sweep, stage: str, section: str, **values: Any) -> Sweep:
    old = getattr(sweep, stage)
    new = old | {section: old.get(section, {}) | values}
    return validate(Sweep, sweep.model_dump() | {stage: new})


def test_a_run_is_named_by_what_determines_it(make_sweep: Any, build_shards: Callable[..., Path]) -> None:
    sweep = make_sweep()
    name = only_run(sweep)
    assert only_run(changed(sweep, "target", "train", epochs=3)) != name
    assert only_run(changed(sweep, "source", "train", epochs=3)) != name, "another source is another run"
    others = build_shards({f"user-{i}": [6, 5, 4, 3, 2, 1] for i in range(12)}, n_items=6)
    assert only_run(changed(sweep, "target", "data", path=str(others))) != name


def test_a_task_is_named_by_its_targets_not_by_where_they_lie(
    make_sweep: Any, build_shards: Callable[..., Path], tmp_path: Path
) -> None:
    def named(task: dict[str, str]) -> str:
        target = make_sweep().target
        data, model = (
            target["data"] | {"examples": {"name": "task", "targets": task}},
            target["model"] | {"objective": {"name": "classification"}},
        )
        return only_run(make_sweep(source=None, target=target | {"data": data, "model": model}))

    platforms = [build_shards({f"user-{i}": [1 + i % n] for i in range(12)}, n_items=3) for n in (2, 3)]
    moved = tmp_path / "moved"
    moved.symlink_to(platforms[0])
    first, second, again = (named({"name": "cold_start", "target": str(p)}) for p in (*platforms, moved))
    assert first == again
    assert first != second
    labels = [tmp_path / name for name in ("a.tsv", "b.tsv", "c.tsv")]
    for path, target in zip(labels, "xxy", strict=True):
        path.write_text(f"user_id\ttarget\nuser-1\t{target}\nuser-2\tz\n")
    first, again, second = (named({"name": "file", "path": str(path)}) for path in labels)
    assert first == again
    assert first != second
    with pytest.raises(ConfigError, match=r"nowhere\.tsv cannot be read"):
        named({"name": "file", "path": str(tmp_path / "nowhere.tsv")})


def test_how_a_run_is_done_and_where_it_lies_is_not_in_its_name(make_sweep: Any, tmp_path: Path, shards: Path) -> None:
    sweep = make_sweep()
    name = only_run(sweep)
    assert only_run(changed(sweep, "target", "train", accumulation=2, log_every=3)) == name
    assert only_run(changed(sweep, "target", "data", workers=2, cache=str(tmp_path))) == name
    moved = tmp_path / "moved"
    moved.symlink_to(shards)
    assert only_run(changed(sweep, "target", "data", path=str(moved))) == name
    assert only_run(make_sweep(storage_path=str(tmp_path / "elsewhere"), name="other")) == name


def test_a_run_is_named_by_its_backbone_not_by_where_it_lies(make_sweep: Any, tmp_path: Path) -> None:
    def named(backbone: Path) -> str:
        target = make_sweep().target
        model = target["model"] | {"item_encoder": {"name": "text", "backbone": str(backbone)}}
        return only_run(make_sweep(source=None, target=target | {"model": model}))

    for folder, weights in (("here", b"0"), ("there", b"0"), ("other", b"1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(weights)
    assert named(tmp_path / "here") == named(tmp_path / "there")
    assert named(tmp_path / "here") != named(tmp_path / "other")


def test_grids_are_united_and_what_they_share_comes_once(make_sweep: Any) -> None:
    plan = make_plan(make_sweep(grid=[{"seed": [0, 1]}, {"seed": [1, 2]}]))
    assert [trial.axes for trial in plan.trials] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_a_search_draws_the_same_points_every_time_and_at_every_point_of_the_grid(make_sweep: Any) -> None:
    among = {"name": "loguniform", "low": 1e-4, "high": 1e-2}
    search = {"lr": {"key": "target.optimizer.lr.head", "among": among}}
    sweep = make_sweep(grid={"method": METHODS}, search=search, samples=3)
    plan = make_plan(sweep)
    rates = [trial.axes["lr"] for trial in plan.trials]
    assert len(set(rates)) == 3
    assert rates[:3] == rates[3:]
    assert make_plan(sweep) == plan
    assert plan.runs[plan.trials[1].run].experiment.optimizer.lr.head == rates[1]


def test_a_trial_that_is_no_experiment_is_named_by_its_axes(make_sweep: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"adaptation of the trial at size 0\.25, bad x: .*unknown key `train\.epoch`"
    ):
        make_plan(make_sweep(grid={"size": SIZES, "bad": {"x": {"target.train.epoch": 3}}}))


@pytest.mark.parametrize(
    ("grid", "fit", "told"),
    [
        ({"size": {"source.data.fraction": [0.5, 1.0]}}, ["size"], "'size' has 2 sizes, but a power law needs 3"),
        ({"size": SIZES}, ["size"], "the law of size has 3 parameters, and there are 3 sizes"),
        ({"method": METHODS}, ["method"], "not an axis of numbers"),
        ({"size": SIZES}, ["sise"], "not an axis of numbers"),
        ([{"a": SIZES, "b": {"target.data.fraction": [0.5]}}, {"a": {"source.data.fraction": [0.5]},
          "b": {"target.data.fraction": [0.2, 0.5, 0.9]}}], ["a", "b"], "the law of a and b has 5 parameters"),
        ({"size": FOUR_SIZES}, ["size"], None),
        ({"a": SIZES, "b": {"target.data.fraction": [0.2, 0.5, 0.9]}}, ["a", "b"], None),
    ],
)  # fmt: skip
def test_a_fit_needs_more_sizes_than_parameters(make_sweep: Any, grid: Any, fit: list[str], told: str | None) -> None:
    sweep = make_sweep(grid=grid, fit=fit)
    if told is None:
        assert make_plan(sweep).trials
    else:
        for planned in (make_plan, check):
            with pytest.raises(ConfigError, match=told):
                planned(sweep)


def test_runs_that_are_never_validated_cannot_be_stopped(make_sweep: Any) -> None:
    sweep = make_sweep(grid={"every": {"target.train.evaluate_every": ["epoch", "never"]}})
    assert make_plan(sweep).trials
    sweep = sweep.model_copy(update={"stopping": Asha(name="asha", grace=1)})
    with pytest.raises(
        ConfigError,
        match=r"at every never: `stopping` compares validations, but there are none: set `target\.train\.eval",
    ):
        make_plan(sweep)


def rivals(plan: Plan) -> list[str | None]:
    return [plan.runs[trial.run].rivals for trial in plan.trials]


def test_runs_are_stopped_for_being_behind_others_of_their_size_and_never_at_the_largest(make_sweep: Any) -> None:
    grid = {"size": FOUR_SIZES, "method": METHODS}
    plan = make_plan(make_sweep(grid=grid, fit=["size"], stopping={"name": "asha", "grace": 1}))
    smaller, largest = rivals(plan)[:-2], rivals(plan)[-2:]
    assert smaller[::2] == smaller[1::2]
    assert len({*smaller}) == 3
    assert None not in smaller
    assert largest == [None, None]
    assert not any(run.rivals for run in plan.of("pretraining"))
    assert not any(rivals(make_plan(make_sweep(grid=grid))))


def test_without_a_law_all_runs_are_rivals(make_sweep: Any) -> None:
    plan = make_plan(make_sweep(grid={"size": SIZES, "method": METHODS}, stopping={"name": "median", "grace": 1}))
    assert len({*rivals(plan)}) == 1
    assert None not in rivals(plan)
