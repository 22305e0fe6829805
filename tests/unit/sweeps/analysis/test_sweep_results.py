"""A sweep's folder read: which trials count, which axes are sizes, what a trial cost."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sweep_folder import METRICS_OF_RUNS, write_sweep

from transrec.sweeps.analysis.curves import curves, paired, surfaces
from transrec.sweeps.analysis.results import Results, ResultsError, load_results
from transrec.sweeps.records import Record, RecordsError, read, write
from transrec.sweeps.report.sections.trials import results_csv

AXES = {"source_fraction": [0.1, 1.0], "target_fraction": [0.5, 1.0], "method": ["full", "houlsby"], "seed": [0, 1]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sweep(tmp_path / "sweep", AXES, lambda axes: 3.0 - axes["source_fraction"], users=20)
    return tmp_path / "sweep"


@pytest.fixture
def results(folder: Path) -> Results:
    return load_results(folder)


def change(folder: Path, number: int, **fields: object) -> Record:
    records = read(folder)
    records[number] = Record(**(vars(records[number]) | fields))
    write(folder, records)
    return records[number]


def test_axes_are_sizes_choices_or_the_seed(results: Results) -> None:
    assert results.size_axes == ["source_fraction", "target_fraction"]
    assert results.choice_axes == ["method"]
    assert results.measures == ["loss", *METRICS_OF_RUNS]


def test_an_axis_of_one_label_is_none(tmp_path: Path) -> None:
    write_sweep(tmp_path, AXES | {"source_fraction": [1.0], "method": ["full"]}, lambda axes: 3.0, users=20)
    results = load_results(tmp_path)
    assert (results.size_axes, results.choice_axes) == (["target_fraction"], [])


def test_what_a_trial_cost(results: Results) -> None:
    outcome = results.outcomes[0]
    assert outcome.axes == {"source_fraction": 0.1, "target_fraction": 0.5, "method": "full", "seed": 0}
    assert outcome.quantities["interactions"] == 20_000
    assert outcome.quantities["source_interactions"] == 100_000
    assert outcome.quantities["trainable_parameters"] == 20_000_000
    assert outcome.quantities["flops"] == 23_000_000 * 201 * 32  # of a window × steps × batch


def test_measures_are_means_of_the_users(results: Results) -> None:
    for measure in ("loss", "HR@10"):
        found = results.resampled(measure)
        expected = [outcome.summary["test"][measure] for outcome in results.outcomes]
        np.testing.assert_allclose(found.values, expected, rtol=1e-5)
        assert found.draws.shape[1] == len(results.outcomes)


def test_trials_tested_on_other_users_are_drawn_and_compared_apart(folder: Path) -> None:
    path = folder / read(folder)[0].run / "test_users.parquet"
    pq.write_table(pq.read_table(path).slice(0, 15), path)
    results = load_results(folder)
    assert len(results.outcomes[0].users) == 15
    assert results.resampled("loss").values[0] == pytest.approx(results.outcomes[0].losses.mean())
    assert paired(results, [0, 1], [2, 3]) == [(1, 3)]  # seeds 0 and 1 of both methods


def test_trials_that_are_not_done_are_no_outcomes(folder: Path) -> None:
    for number, status in enumerate(("failed", "stopped", "pending")):
        change(folder, number, status=status)
    results = load_results(folder)
    assert len(results.outcomes) == 13
    assert len(results.records) == 16


@pytest.mark.parametrize("name", ["summary.json", "test_users.parquet", "config.yaml"])
def test_a_run_that_lacks_a_file_is_named_and_stops_nothing(folder: Path, name: str) -> None:
    record = read(folder)[3]
    (folder / record.run / name).write_text("{")
    results = load_results(folder)
    assert len(results.outcomes) == 15
    assert f"{record.run}/{name} is missing or unreadable" in results.unreadable[record.trial]


def test_a_run_of_an_older_version_says_what_it_lacks(folder: Path) -> None:
    record = read(folder)[0]
    path = folder / record.run / "summary.json"
    summary = json.loads(path.read_text())
    del summary["data"]
    path.write_text(json.dumps(summary))
    assert "has no 'data': train the run again" in load_results(folder).unreadable[record.trial]


DAMAGES = {
    "test": [None, [], {}, {"HR@10": "0.1"}, {"HR@10": None}, {"HR@10": 0.1}, {"HR@10": 0.1, "HR@10_interval": [1]}],
    "data": [None, [], 3, {"interactions": "many"}, {"interactions": None}, {"impressions": 3}],
    "parameters": [None, 3, {}, {"trainable": [1]}],
    "steps": [None, "x", {}],
    "seconds": [None, "x", []],
    "peak_memory_bytes": [{}],
    "baselines": [None, [1], {"popular": 3}, {"popular": {"HR@10": "x"}}],
    "flops_per_user": [3, [], {"forward": 1}, {"forward": None, "backward": 1}],
    "samples": [None, [], {"test": {"users": 3}}],
}


@pytest.fixture
def few(tmp_path: Path) -> Path:
    write_sweep(tmp_path, AXES | {"source_fraction": [1.0], "seed": [0]}, lambda axes: 3.0, users=20)
    return tmp_path


@pytest.mark.parametrize("key", DAMAGES)
def test_a_damaged_summary_is_named_and_stops_nothing(few: Path, key: str) -> None:
    record = read(few)[3]
    path = few / record.run / "summary.json"
    whole = json.loads(path.read_text())
    for value in DAMAGES[key]:
        path.write_text(json.dumps(whole | {key: value}))
        results = load_results(few)
        assert len(results.outcomes) == 3
        assert results.unreadable[record.trial].startswith(f"{path} ")
        assert results_csv(results)


@pytest.mark.parametrize("name", ["user_id", "target", "rank", "loss"])
@pytest.mark.parametrize("damage", ["missing", "null", "of another type"])
def test_a_damaged_file_of_users_is_named_and_stops_nothing(few: Path, name: str, damage: str) -> None:
    record = read(few)[3]
    path = few / record.run / "test_users.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(name)
    kind = table.schema.field(name).type if damage == "null" else pa.binary()
    changed = table.set_column(place, name, pa.nulls(len(table), kind))
    pq.write_table(table.drop_columns([name]) if damage == "missing" else changed, path)
    results = load_results(few)
    assert len(results.outcomes) == 3
    assert f"column `{name}`" in results.unreadable[record.trial]


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="not the folder of a sweep"):
        load_results(tmp_path)


def test_a_sweep_without_results_says_why(folder: Path) -> None:
    write(folder, [Record(**(vars(r) | {"status": "failed", "error": "out of memory"})) for r in read(folder)])
    with pytest.raises(ResultsError, match=r"none of 16 trials has results.*first reason: out of memory"):
        load_results(folder)


# Tasks

TASKS = {"task": ["gender", "age"], "target_fraction": [0.1, 1.0], "method": ["patch", "full"], "seed": [0, 1]}


@pytest.fixture
def tasks(tmp_path: Path) -> Results:
    write_sweep(tmp_path / "tasks", TASKS, lambda axes: 0.2 if axes["method"] == "patch" else 0.4, users=60)
    return load_results(tmp_path / "tasks")


def test_a_task_is_no_choice_its_trials_answer_other_questions(tasks: Results) -> None:
    assert (tasks.task_axes, tasks.choice_axes, tasks.size_axes) == (["task"], ["method"], ["target_fraction"])
    assert paired(tasks, [0, 1], [2, 3]) == [(0, 2), (1, 3)]
    assert paired(tasks, [0], [8]) == []


def test_measures_of_a_task_are_those_of_its_summary(tasks: Results) -> None:
    assert tasks.measures == ["loss", "accuracy", "macro_F1"]
    assert tasks.monitor == "accuracy"
    for measure in ("accuracy", "macro_F1"):
        found = tasks.resampled(measure)
        np.testing.assert_allclose(found.values, [outcome.summary["test"][measure] for outcome in tasks.outcomes])
        low, high = np.quantile(found.draws[:, 0], [0.025, 0.975])
        assert low < found.values[0] < high
    low, high = tasks.outcomes[0].summary["test"]["macro_F1_interval"]
    drawn = np.quantile(tasks.resampled("macro_F1").draws[:, 0], [0.025, 0.975])
    np.testing.assert_allclose(drawn, [low, high], atol=0.2 * (high - low))


def test_what_a_task_grows_with_are_its_labels(tasks: Results) -> None:
    found = curves(tasks, "target_fraction")
    assert next(iter(found)) == "labels"
    assert "interactions" not in found
    assert [(c.series, c.panel) for c in found["labels"]] == [
        ("patch", "gender"), ("full", "gender"), ("patch", "age"), ("full", "age"),
    ]  # fmt: skip


def test_a_run_that_does_not_say_what_was_asked_is_named(folder: Path) -> None:
    record = read(folder)[0]
    path = folder / record.run / "test_users.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["target"]), path)
    assert "no column `target`" in load_results(folder).unreadable[record.trial]


# Curves


def test_a_curve_runs_along_measured_sizes(results: Results) -> None:
    found = curves(results, "source_fraction")
    assert list(found) == ["source_interactions", "source_flops"]
    assert [(c.series, c.panel) for c in found["source_interactions"]] == [
        ("full", "target_fraction 0.5"),
        ("houlsby", "target_fraction 0.5"),
        ("full", "target_fraction 1.0"),
        ("houlsby", "target_fraction 1.0"),
    ]
    first = found["source_interactions"][0]
    np.testing.assert_allclose(first.sizes, [100_000, 1_000_000])
    assert [[results.outcomes[n].axes["seed"] for n in members] for members in first.members] == [[0, 1], [0, 1]]
    assert all(results.outcomes[n].axes["method"] == "full" for members in first.members for n in members)


def test_an_axis_along_which_nothing_grows_has_no_curves(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"learning_rate": [1e-4, 1e-3], "seed": [0]}, lambda axes: 3.0, users=20)
    assert curves(load_results(tmp_path), "learning_rate") == {}


def test_surfaces_have_both_sizes_of_every_trial(results: Results) -> None:
    found = surfaces(results, "source_fraction", "target_fraction")
    assert list(found) == ["full", "houlsby"]
    amounts, sizes, numbers = found["houlsby"]
    assert amounts == ("source_interactions", "interactions")
    assert len(numbers) == 8
    for (source, target), number in zip(sizes, numbers, strict=True):
        quantities = results.outcomes[number].quantities
        assert source == pytest.approx(quantities["source_interactions"])
        assert target == pytest.approx(quantities["interactions"])
