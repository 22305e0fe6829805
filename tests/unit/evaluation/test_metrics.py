"""Metrics against hand-computed values; the bootstrap against drawing users one by one."""

import math

import numpy as np
import pytest
import torch

from transrec.evaluation import estimates
from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.metric import MeanMetric
from transrec.evaluation.metrics import METRICS, METRICS_AT_K, metric
from transrec.evaluation.readings import READINGS

RANKS = torch.tensor([1, 2, 3, 10, 11, 5000])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HR@1", [1, 0, 0, 0, 0, 0]),
        ("HR@10", [1, 1, 1, 1, 0, 0]),
        ("NDCG@10", [1, 1 / math.log2(3), 1 / 2, 1 / math.log2(11), 0, 0]),
        ("NDCG@2", [1, 1 / math.log2(3), 0, 0, 0, 0]),
        ("MRR@10", [1, 1 / 2, 1 / 3, 1 / 10, 0, 0]),
        ("MRR@5", [1, 1 / 2, 1 / 3, 0, 0, 0]),
    ],
)
def test_values_by_hand(name, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    found = metric(name)
    torch.testing.assert_close(found.values(RANKS), expected, rtol=1e-12, atol=0)
    assert found.estimate([RANKS]).value == pytest.approx(float(expected.mean()), rel=1e-12)


def test_a_name_is_read_with_its_cutoff():
    assert [(m.name, m.k, m.reads) for m in (metric("HR@10"), metric("NDCG@100"))] == [
        ("HR@10", 10, ("rank",)),
        ("NDCG@100", 100, ("rank",)),
    ]


class MeanRank(MeanMetric):
    name = "mean_rank"
    reads = ("rank",)
    higher_is_better = False

    def values(self, *columns):
        return columns[0].double()


def test_any_metric_of_ranks_can_be_sampled(monkeypatch):
    monkeypatch.setitem(METRICS, "mean_rank", MeanRank())
    for full in (metric("mean_rank"), metric("MRR@5")):
        sampled = metric(f"sampled_99_{full.name}")
        assert sampled.name == f"sampled_99_{full.name}"
        assert sampled.reads == ("sampled_rank",)
        assert sampled.higher_is_better == full.higher_is_better
        assert sampled.estimate([RANKS]) == full.estimate([RANKS])


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"'MAP' is not one of HR, NDCG, MRR"):
        metric("MAP@10")
    with pytest.raises(ValueError, match=r"such as HR@10, or one of accuracy, macro_F1, loss"):
        metric("acuracy")


@pytest.mark.parametrize("text", ["HR", "HR@", "HR@0", "HR@-1", "HR@ten", "@10", "HR@10 ", "", "sampled_99_", "HR@010"])
def test_what_is_not_name_at_k_is_refused(text):
    with pytest.raises(ValueError, match="NAME@K"):
        metric(text)


@pytest.mark.parametrize("text", ["sampled_99_macro_F1", "sampled_99_loss", "sampled_99_sampled_99_HR@5"])
def test_only_ranks_are_sampled(text):
    with pytest.raises(ValueError, match="precede a rank metric, such as sampled_99_HR@10"):
        metric(text)


EVERY_METRIC = [*METRICS, *(f"{family}@10" for family in METRICS_AT_K), "sampled_99_HR@10"]


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_every_metric_bears_the_name_it_is_asked_for_by(name):
    assert metric(name).name == name


@pytest.mark.parametrize("name", [name for name in EVERY_METRIC if {*metric(name).reads} <= READINGS.keys()])
def test_a_statistic_counts_targets_as_often_as_they_were_drawn(name):
    columns = [torch.tensor([1, 2, 2, 1, 3]), torch.tensor([1, 2, 3, 3, 3])][: len(metric(name).reads)]
    once, twice = metric(name).statistic(*columns)(np.array([[1, 1, 1, 1, 1], [2, 1, 1, 0, 2]]))
    assert metric(name).estimate(columns).value == pytest.approx(float(once), rel=1e-12)
    repeated = [column[[0, 0, 1, 2, 4, 4]] for column in columns]
    assert metric(name).estimate(repeated).value == pytest.approx(float(twice), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "best", "better"),
    [
        ("HR@10", 0.2, 0.1, True),
        ("HR@10", 0.1, 0.2, False),
        ("HR@10", 0.1, 0.1, False),
        ("HR@10", 0.0, None, True),
        ("loss", 1.0, 2.0, True),
        ("loss", 2.0, 1.0, False),
        ("loss", 2.0, 2.0, False),
        ("loss", 9.0, None, True),
        ("loss", math.nan, None, False),
        ("HR@10", math.nan, 0.1, False),
    ],
)
def test_what_is_better_depends_on_the_metric(name, value, best, better):
    assert metric(name).improves(value, best) is better


@pytest.mark.parametrize("name", ["HR@10", "NDCG@10", "MRR@3"])
def test_interval_agrees_with_drawing_users(name):
    generator = np.random.default_rng(1)
    ranks = torch.from_numpy(generator.geometric(0.05, size=400))
    values = metric(name).values(ranks).numpy()
    means = values[generator.integers(0, 400, size=(20_000, 400))].mean(axis=1)
    low, high = np.quantile(means, [0.05, 0.95])

    estimate = metric(name).estimate([ranks], interval=Interval(0.9, 20_000))

    spread = high - low
    assert estimate.low == pytest.approx(low, abs=0.05 * spread)
    assert estimate.high == pytest.approx(high, abs=0.05 * spread)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    p = 0.03
    truth = 1 - (1 - p) ** 10  # P(rank <= 10)
    covered = 0
    for trial in range(300):
        ranks = torch.from_numpy(generator.geometric(p, size=500))
        estimate = metric("HR@10").estimate([ranks], interval=Interval(seed=trial))
        covered += estimate.low <= truth <= estimate.high
    assert 0.91 <= covered / 300 <= 0.99


def test_the_interval_follows_from_the_seed():
    ranks = torch.arange(1, 200)
    first = metric("HR@10").estimate([ranks])
    assert metric("HR@10").estimate([ranks]) == first
    assert metric("HR@10").estimate([ranks], interval=Interval(seed=1)) != first


def test_resampling_in_steps_changes_nothing(monkeypatch):
    ranks = torch.arange(1, 200)
    at_once = metric("NDCG@20").estimate([ranks])
    monkeypatch.setattr(estimates, "_RESAMPLED_COUNTS", 150)
    assert metric("NDCG@20").estimate([ranks]) == at_once


def test_certain_results_have_no_width():
    assert metric("HR@10").estimate([torch.ones(7, dtype=torch.int64)]) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (torch.tensor([], dtype=torch.int64), "at least one"),
        (torch.tensor([[1]]), "vector"),
        (torch.tensor([1, 0]), "start at 1"),
        (torch.tensor([1.0]), "integers"),
    ],
)
def test_refuses_what_are_not_ranks(ranks, message):
    with pytest.raises(ValueError, match=message):
        metric("HR@10").estimate([ranks])


def test_refuses_bad_settings():
    with pytest.raises(ValueError, match="confidence"):
        Interval(95)
    with pytest.raises(ValueError, match="resamples"):
        Interval(resamples=0)


def test_mean_loss_has_the_interval_that_drawing_users_gives():
    losses = torch.from_numpy(np.random.default_rng(4).gamma(2.0, 3.0, size=500))
    draws = losses.numpy()[np.random.default_rng(5).integers(0, 500, size=(20_000, 500))].mean(axis=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    estimate = metric("loss").estimate([losses], interval=Interval(0.9))
    assert estimate.value == pytest.approx(float(losses.mean()), rel=1e-12)
    assert estimate.low == pytest.approx(low, abs=0.05 * (high - low))
    assert estimate.high == pytest.approx(high, abs=0.05 * (high - low))


def test_the_loss_of_one_user_has_no_width():
    assert metric("loss").estimate([torch.tensor([2.5])]) == Estimate(2.5, 2.5, 2.5)


def test_refuses_no_losses():
    with pytest.raises(ValueError, match="at least one loss"):
        metric("loss").estimate([torch.zeros(0)])
