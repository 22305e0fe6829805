"""Metrics against hand-computed values; the bootstrap against drawing users one by one."""

import math

import numpy as np
import pytest
import torch

from transrec.evaluation import metrics
from transrec.evaluation.metrics import METRICS, Estimate, compare_ranks, evaluate_losses, evaluate_ranks, parse

RANKS = torch.tensor([1, 2, 3, 10, 11, 5000])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("HR@1", [1, 0, 0, 0, 0, 0]),
        ("HR@10", [1, 1, 1, 1, 0, 0]),
        ("NDCG@10", [1, 1 / math.log2(3), 1 / 2, 1 / math.log2(11), 0, 0]),
        ("NDCG@2", [1, 1 / math.log2(3), 0, 0, 0, 0]),
        ("MRR@10", [1, 1 / 2, 1 / 3, 1 / 10, 0, 0]),
        ("MRR@5", [1, 1 / 2, 1 / 3, 0, 0, 0]),
    ],
)
def test_values_by_hand(metric, expected):
    name, k = parse(metric)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(METRICS[name](RANKS, k), expected, rtol=1e-12, atol=0)
    assert evaluate_ranks(RANKS, [metric])[metric].value == pytest.approx(float(expected.mean()), rel=1e-12)


def test_parse_reads_name_and_cutoff():
    assert parse("HR@10") == ("HR", 10)
    assert parse("NDCG@100") == ("NDCG", 100)


def test_parse_names_the_metrics_there_are():
    with pytest.raises(ValueError, match=r"'MAP' is not one of HR, NDCG, MRR"):
        parse("MAP@10")


@pytest.mark.parametrize("text", ["HR", "HR@", "HR@0", "HR@-1", "HR@ten", "@10", "HR@10 ", ""])
def test_parse_refuses_what_is_not_name_at_k(text):
    with pytest.raises(ValueError, match="NAME@K"):
        parse(text)


@pytest.mark.parametrize("metric", ["HR@10", "NDCG@10", "MRR@3"])
def test_interval_agrees_with_drawing_users(metric):
    generator = np.random.default_rng(1)
    ranks = generator.geometric(0.05, size=400)
    name, k = parse(metric)
    values = METRICS[name](torch.from_numpy(ranks), k).numpy()
    means = values[generator.integers(0, 400, size=(20_000, 400))].mean(axis=1)
    low, high = np.quantile(means, [0.05, 0.95])

    estimate = evaluate_ranks(torch.from_numpy(ranks), [metric], confidence=0.9, resamples=20_000)[metric]

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
        estimate = evaluate_ranks(ranks, ["HR@10"], seed=trial)["HR@10"]
        covered += estimate.low <= truth <= estimate.high
    assert 0.91 <= covered / 300 <= 0.99


def test_same_seed_same_interval_whatever_else_is_asked_for():
    ranks = torch.arange(1, 200)
    alone = evaluate_ranks(ranks, ["HR@10"])["HR@10"]
    assert evaluate_ranks(ranks, ["NDCG@50", "HR@10"])["HR@10"] == alone
    assert evaluate_ranks(ranks, ["HR@10"], seed=1)["HR@10"] != alone


def test_resampling_in_steps_changes_nothing(monkeypatch):
    ranks = torch.arange(1, 200)
    at_once = evaluate_ranks(ranks, ["NDCG@20"])
    monkeypatch.setattr(metrics, "_RESAMPLED_COUNTS", 150)
    assert evaluate_ranks(ranks, ["NDCG@20"]) == at_once


def test_certain_results_have_no_width():
    assert evaluate_ranks(torch.ones(7, dtype=torch.int64), ["HR@10"])["HR@10"] == Estimate(1.0, 1.0, 1.0)


def test_paired_comparison_is_narrower_than_the_parts():
    generator = np.random.default_rng(3)
    baseline = torch.from_numpy(generator.geometric(0.05, size=1000))
    better = (baseline - 1).clamp(min=1)
    difference = compare_ranks(better, baseline, ["HR@10"])["HR@10"]
    single = evaluate_ranks(better, ["HR@10"])["HR@10"]

    assert difference.value == pytest.approx(float((baseline == 11).double().mean()), abs=1e-12)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.high - difference.low < (single.high - single.low) / 2


def test_comparison_with_itself_is_zero():
    assert compare_ranks(RANKS, RANKS, ["NDCG@10"])["NDCG@10"] == Estimate(0.0, 0.0, 0.0)


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
        evaluate_ranks(ranks, ["HR@10"])


def test_refuses_unpaired_ranks_and_bad_settings():
    with pytest.raises(ValueError, match="same users"):
        compare_ranks(RANKS, RANKS[1:], ["HR@10"])
    with pytest.raises(ValueError, match="confidence"):
        evaluate_ranks(RANKS, ["HR@10"], confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        evaluate_ranks(RANKS, ["HR@10"], resamples=0)


def test_mean_loss_has_the_interval_that_drawing_users_gives():
    losses = torch.from_numpy(np.random.default_rng(4).gamma(2.0, 3.0, size=500))
    draws = losses.numpy()[np.random.default_rng(5).integers(0, 500, size=(20_000, 500))].mean(axis=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    estimate = evaluate_losses(losses, confidence=0.9)
    assert estimate.value == pytest.approx(float(losses.mean()), rel=1e-12)
    assert estimate.low == pytest.approx(low, abs=0.05 * (high - low))
    assert estimate.high == pytest.approx(high, abs=0.05 * (high - low))


def test_the_loss_of_one_user_has_no_width():
    assert evaluate_losses(torch.tensor([2.5])) == Estimate(2.5, 2.5, 2.5)


def test_refuses_no_losses():
    with pytest.raises(ValueError, match="at least one loss"):
        evaluate_losses(torch.zeros(0))
