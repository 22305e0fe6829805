"""Metrics of clicks against scikit-learn's and their definitions."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from transrec.evaluation.ranking_metrics import (
    AUC,
    BINS,
    CalibrationError,
    GroupedAUC,
    LogLoss,
    calibration_bins,
    calibration_error,
)

GAUC, UAUC = GroupedAUC("GAUC", "user", "impressions"), GroupedAUC("UAUC", "user", "equal")


@pytest.fixture(params=[False, True], ids=["no ties", "ties"])
def impressions(request) -> dict[str, torch.Tensor]:
    """600 impressions of 40 users, some of whom clicked on nothing or everything."""
    generator = np.random.default_rng(0)
    user = generator.integers(0, 40, 600)
    score = generator.normal(size=600)
    label = (generator.random(600) < 1 / (1 + np.exp(-score - generator.normal(size=40)[user]))).astype(np.float64)
    label[user < 3], label[user == 3] = 0, 1
    if request.param:
        score = score.round()
    return {"user": torch.from_numpy(user), "score": torch.from_numpy(score), "label": torch.from_numpy(label)}


def value(metric, impressions):
    statistic = metric.statistic(*(impressions[name] for name in metric.reads))
    return float(statistic(np.ones((1, len(impressions["user"])), np.int64))[0])


def of_users(impressions):
    """The number of impressions and the AUC of every user with both labels."""
    user, score, label = (impressions[name].numpy() for name in ("user", "score", "label"))
    both = [u for u in np.unique(user) if 0 < label[user == u].mean() < 1]
    assert len(both) < 40
    return np.array([[(user == u).sum(), roc_auc_score(label[user == u], score[user == u])] for u in both]).T


def test_auc_is_scikit_learn_s(impressions):
    expected = roc_auc_score(impressions["label"], impressions["score"])
    assert value(AUC(), impressions) == pytest.approx(expected, abs=1e-12)


def test_auc_of_users_is_the_mean_over_users_with_both_labels(impressions):
    sizes, aucs = of_users(impressions)
    assert value(GAUC, impressions) == pytest.approx(np.average(aucs, weights=sizes), abs=1e-12)
    assert value(UAUC, impressions) == pytest.approx(aucs.mean(), abs=1e-12)


def test_log_loss_is_scikit_learn_s(impressions):
    probability = torch.sigmoid(impressions["score"])
    found = LogLoss().estimate([impressions["score"], impressions["label"]], impressions["user"])
    assert found.value == pytest.approx(log_loss(impressions["label"], probability), abs=1e-12)
    assert found.low < found.value < found.high


def test_calibration_by_its_definition(impressions):
    order = np.argsort(impressions["score"].numpy(), kind="stable")
    probability, label = torch.sigmoid(impressions["score"]).numpy()[order], impressions["label"].numpy()[order]
    bins = np.array_split(np.arange(600), BINS)
    expected = sum(len(b) / 600 * abs(probability[b].mean() - label[b].mean()) for b in bins)
    assert value(CalibrationError(), impressions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("most", [600, 40, 7, 1])
def test_the_calibration_error_is_the_weighted_gap_of_the_bins(impressions, most):
    some = {name: column[:most] for name, column in impressions.items()}
    bins = calibration_bins(some["score"], some["label"])
    assert len(bins) == min(BINS, most)
    assert max(b.impressions for b in bins) - min(b.impressions for b in bins) <= 1
    assert sum(b.impressions for b in bins) == most
    probabilities = torch.sigmoid(some["score"]).sum() / most
    assert sum(b.impressions * b.predicted for b in bins) / most == pytest.approx(float(probabilities), abs=1e-12)
    assert sum(b.impressions * b.observed for b in bins) == pytest.approx(float(some["label"].sum()), abs=1e-9)
    bounds = [bound for b in bins for bound in (b.lowest, b.highest)]
    assert bounds == sorted(bounds)
    assert all(b.lowest - 1e-12 <= b.predicted <= b.highest + 1e-12 for b in bins)
    gaps = sum(b.impressions / most * abs(b.predicted - b.observed) for b in bins)
    assert gaps == pytest.approx(value(CalibrationError(), some), abs=1e-12)
    assert calibration_error(bins) == pytest.approx(gaps, abs=1e-15)


def test_probabilities_that_are_right_have_hardly_any_error():
    generator = np.random.default_rng(1)
    score = torch.from_numpy(generator.normal(size=100_000))
    label = (torch.from_numpy(generator.random(100_000)) < torch.sigmoid(score)).double()
    everyone = {"user": score, "score": score, "label": label}
    assert value(CalibrationError(), everyone) < 0.01
    assert value(CalibrationError(), everyone | {"score": score - 1}) > 0.15


@pytest.mark.parametrize("metric", [AUC(), GAUC, UAUC, CalibrationError()], ids=lambda metric: metric.name)
def test_a_resample_is_the_metric_of_the_drawn_impressions(metric, impressions):
    """Users are drawn whole; a user who is drawn twice counts as two."""
    generator = np.random.default_rng(2)
    user = impressions["user"].numpy()
    draws = generator.multinomial(40, np.full(40, 1 / 40), size=3)
    columns = [impressions[name] for name in metric.reads]
    found = metric.statistic(*columns)(draws[:, user])
    for drawn, value_of_drawn in zip(draws, found, strict=True):
        rows = np.concatenate([np.flatnonzero(user == u) for u in range(40) for _ in range(drawn[u])])
        copies = np.concatenate([np.full((user == u).sum(), 100 * u + n) for u in range(40) for n in range(drawn[u])])
        again = {name: column[rows] for name, column in impressions.items()} | {"user": torch.from_numpy(copies)}
        tolerance = 0.03 if isinstance(metric, CalibrationError) else 1e-9  # its bins stay those of all impressions
        assert value_of_drawn == pytest.approx(value(metric, again), abs=tolerance)


def test_without_one_of_the_labels_there_is_no_auc():
    ones = {"user": torch.arange(4), "score": torch.arange(4.0), "label": torch.ones(4)}
    assert np.isnan(value(AUC(), ones))


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([], [], "expected at least one, found none"),
        ([1.0], [1.0, 0.0], "found 1 and 2"),
        ([1.0], [0.5], "expected only 0 .* and 1"),
        ([float("nan")], [1.0], "found NaN"),
    ],
)
def test_columns_that_do_not_fit_are_refused(score, label, message):
    with pytest.raises(ValueError, match=message):
        AUC().statistic(torch.tensor(score), torch.tensor(label))
