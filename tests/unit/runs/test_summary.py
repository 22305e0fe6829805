"""The results of a run: the sentence that names the baselines ahead of it, and the files of all questions."""

import json
import math
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from asked import users_asked

from transrec.config import validate
from transrec.data.examples import DataConfig
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import UserResults
from transrec.experiment import Experiment
from transrec.runs import summary
from transrec.runs.summary import save_ranks, save_users, untrained_ahead

MODEL = {
    "item_encoder": {"name": "id_embedding"},
    "user_encoder": {"name": "sasrec"},
    "objective": {"name": "full_softmax"},
}


def experiment(monitor):
    values = {"run_dir": "run", "data": {"path": "shards"}, "model": MODEL, "train": {"monitor": monitor}}
    return Experiment.model_validate(values | {"evaluation": {"metrics": ["HR@10", "loss"]}})


def results_of(metric, **values):
    return {name: {metric: Estimate(value, value, value)} for name, value in values.items()}


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("HR@10", {"most_popular": 0.1, "this run": 0.2}, ""),
        ("HR@10", {"most_popular": 0.2, "this run": 0.2}, ""),
        (
            "HR@10",
            {"most_popular": 0.1, "blend": 0.3, "item_to_item": 0.25, "this run": 0.2},
            "HR@10: this run (0.2000) is behind far simpler baselines: blend (0.3000), item_to_item (0.2500).",
        ),
        (
            "loss",
            {"one": 1.0, "other": 3.0, "this run": 2.0},
            "loss: this run (2.0000) is behind a far simpler baseline: one (1.0000).",
        ),
    ],
)
def test_baselines_that_are_ahead_are_named(metric, values, expected):
    assert untrained_ahead(experiment(metric), results_of(metric, **values)) == expected


def test_a_baseline_without_the_metric_is_not_compared():
    results = {"blend": {}} | results_of("loss", **{"this run": 2.0})
    assert untrained_ahead(experiment("loss"), results) == ""


# Files of questions


@pytest.fixture
def examples(synthetic_shards, tmp_path):
    return validate(DataConfig, {"path": str(synthetic_shards), "cache": str(tmp_path)}).scan(8)


def results(examples, sample=None):
    """Readings that can be told from each other: target t of question n, with rank n + 1 and loss n / 2."""
    targets = torch.cat([asked.targets for asked in examples.questions("test", sample=sample) if asked is not None])
    numbers = torch.arange(len(targets))
    columns = {"user": numbers, "target": targets, "rank": numbers + 1, "loss": numbers.double() / 2}
    return UserResults(columns, {}, sample)


@pytest.mark.parametrize("most", [None, 30])
def test_questions_are_written_in_groups_of_rows(examples, tmp_path, monkeypatch, most):
    """A column of a group holds 2 GiB of text at most; what is read is the same however rows are grouped."""
    sample = None if most is None else examples.sample_users("test", most)
    found = results(examples, sample)
    save_users(tmp_path / "whole.parquet", examples, found)
    monkeypatch.setattr(summary, "_ROWS_OF_A_GROUP", 10)
    save_users(tmp_path / "groups.parquet", examples, found)
    save_ranks(tmp_path / "ranks.parquet", examples, {"one": found, "two": found})
    whole, groups, ranks = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "groups", "ranks"))
    assert pq.read_metadata(tmp_path / "whole.parquet").num_row_groups == 1
    assert pq.read_metadata(tmp_path / "groups.parquet").num_row_groups > 1
    assert groups.equals(whole)
    assert [str(kind) for kind in whole.schema.types] == ["string", "string", "int64", "float"]
    assert whole["user_id"].to_pylist() == users_asked(examples, "test", sample)
    assert whole["rank"].to_pylist() == list(range(1, len(whole) + 1))
    names = examples.target_names()
    assert whole["target"].to_pylist() == [names[t - 1].as_py() for t in found.columns["target"].tolist()]
    assert ranks["two"].equals(whole["rank"])
    assert len(whole) == (most or len(users_asked(examples, "test")))


def test_a_column_of_text_may_hold_more_than_one_array_of_it_can(tmp_path, monkeypatch):
    """As many names as it takes: an array of them all overflows, as it did when a group held everything."""
    longest, questions = "x" * 2**22, 600  # 2.3 GiB together
    few = pa.array(["u"] * 4)
    given = SimpleNamespace(
        name="next_item",
        target_names=lambda: pa.array([longest]),
        question_users=lambda part, sample: iter([few] * (questions // 4)),
    )
    written = []

    class Writer:
        def __init__(self, *arguments):
            tmp_path.joinpath(arguments[0]).touch()

        __enter__, __exit__ = (lambda self: self), (lambda self, *error: None)

        def write_table(self, table):
            written.append((len(table), table["target"].nbytes))

    monkeypatch.setattr(summary.pq, "ParquetWriter", Writer)
    monkeypatch.setattr(summary, "_ROWS_OF_A_GROUP", 40)
    ones = torch.ones(questions, dtype=torch.int64)
    columns = {"target": ones, "rank": ones, "loss": ones.double()}
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        pa.array([longest]).take(pa.array([0] * questions))
    save_users(tmp_path / "users.parquet", given, UserResults(columns, {}))
    assert sum(rows for rows, _ in written) == questions
    assert sum(size for _, size in written) > 2**31


def test_an_undefined_metric_is_null_in_the_file_and_not_a_number_when_read(tmp_path):
    values = {"GAUC": math.nan, "GAUC_interval": [math.nan, math.inf], "AUC": 0.5}
    summary.write_summary(tmp_path, {"test": values, "samples": {"test": None}})
    strict = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert strict["test"] == {"GAUC": None, "GAUC_interval": [None, None], "AUC": 0.5}
    found = summary.read_summary(tmp_path)
    assert math.isnan(found["test"]["GAUC"])
    assert math.isnan(found["test"]["GAUC_interval"][1])
    assert (found["test"]["AUC"], found["samples"]) == (0.5, {"test": None})


def test_a_difference_within_the_interval_of_the_run_is_called_so():
    tested = results_of("HR@10", most_popular=0.31) | {"this run": {"HR@10": Estimate(0.3, 0.25, 0.35)}}
    assert untrained_ahead(experiment("HR@10"), tested).endswith("The difference is small enough to be chance.")
    tested["transitions"] = {"HR@10": Estimate(0.4, 0.35, 0.45)}
    told = untrained_ahead(experiment("HR@10"), {"transitions": tested.pop("transitions"), **tested})
    assert "transitions (0.4000), most_popular (0.3100)" in told
    assert "chance" not in told


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_of_json_follows_the_tables_only_for_programs(monkeypatch, capsys, terminal):
    measured = {
        "parameters": {"towers": {}, "trainable": 1, "total": 2},
        "users_per_second": 3,
        "peak_memory_bytes": 4,
        "export_bytes": {"adapter_model.safetensors": 2**20},
        "remarks": [],
        "steps": 5,
        "best_step": 5,
        "test": {"HR@10": 0.5},
    }
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    summary.show(experiment("HR@10"), results_of("HR@10", **{"this run": 0.5}), {}, measured, None, "")
    shown = capsys.readouterr().out.splitlines()
    assert any("trained weights, export/adapter_model.safetensors" in line for line in shown)
    assert shown[-1].startswith("Recommend ") if terminal else json.loads(shown[-1])["test"] == {"HR@10": 0.5}
