"""The sentence that names the baselines ahead of a run."""

import pytest

from transrec.evaluation.estimates import Estimate
from transrec.experiment import Experiment
from transrec.runs.summary import untrained_ahead

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
            "HR@10: this run (0.2000) is behind blend (0.3000), item_to_item (0.2500), baselines of far less effort.",
        ),
        (
            "loss",
            {"one": 1.0, "other": 3.0, "this run": 2.0},
            "loss: this run (2.0000) is behind one (1.0000), a baseline of far less effort.",
        ),
    ],
)
def test_baselines_that_are_ahead_are_named(metric, values, expected):
    assert untrained_ahead(experiment(metric), results_of(metric, **values)) == expected


def test_a_baseline_without_the_metric_is_not_compared():
    results = {"blend": {}} | results_of("loss", **{"this run": 2.0})
    assert untrained_ahead(experiment("loss"), results) == ""
