"""Metrics against hand-computed values; the bootstrap against drawing users one by one."""

import math

import numpy as np
import pytest
import torch

from transrec.evaluation import estimates
from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.evaluator import KINDS
from transrec.evaluation.metric import MeanMetric
from transrec.evaluation.metrics import METRICS, METRICS_AT_K, metric
from transrec.evaluation.readings import at_cutoffs

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


# The contract of every metric, on eight rows of five users

OWNERS = [0, 0, 1, 1, 2, 3, 3, 4]
NEW_IN_A_COPY = {"user", "request"}  # a user who is drawn twice counts as two users, each with requests of their own
BINNED = {"ECE"}  # its bins are those of the sample, also for a resample


def a_column(reading: str) -> torch.Tensor:
    """Eight numbers that the reading might give."""
    special = {
        **{"user": OWNERS, "request": OWNERS, "label": [1, 0, 1, 0, 1, 0, 1, 0]},
        **{"target": [1, 2, 1, 2, 3, 3, 1, 2], "predicted": [1, 1, 2, 2, 3, 3, 3, 2]},
    }
    if reading in special:
        return torch.tensor(special[reading])
    tables = [{**kind.readings, **at_cutoffs(kind.readings_at_k, [reading])} for kind in KINDS.values()]
    dtype = next(table[reading].dtype for table in tables if reading in table)
    generator = torch.Generator().manual_seed(sum(map(ord, reading)))
    numbers = torch.rand(len(OWNERS), dtype=torch.float64, generator=generator)
    return numbers if dtype.is_floating_point else (1 + 15 * numbers).to(dtype)


def columns_of(name: str) -> list[torch.Tensor]:
    return [a_column(reading) for reading in metric(name).reads]


def drawn(times: list[int]) -> np.ndarray:
    """How often each row is drawn (1, I), from how often each user is."""
    return np.array([[times[user] for user in OWNERS]])


def copied(name: str, times: list[int]) -> list[torch.Tensor]:
    """The columns of a sample that has each user's rows as often as the user was drawn."""
    rows = [(row, copy) for copy in range(max(times)) for row, user in enumerate(OWNERS) if copy < times[user]]
    found = []
    for reading, column in zip(metric(name).reads, columns_of(name), strict=True):
        new = reading in NEW_IN_A_COPY
        found.append(torch.stack([column[row] + (100 * copy if new else 0) for row, copy in rows]))
    return found


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_a_mean_is_of_one_value_for_each_row(name):
    found = metric(name)
    if isinstance(found, MeanMetric):
        values = found.values(*columns_of(name))
        assert values.shape == (len(OWNERS),)
        assert values.dtype == torch.float64


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_a_statistic_has_one_value_for_each_resample(name):
    statistic = metric(name).statistic(*columns_of(name))
    resamples = [[1, 1, 1, 1, 1], [2, 0, 1, 0, 2], [0, 3, 0, 1, 1]]
    found = statistic(np.concatenate([drawn(times) for times in resamples]))
    assert found.shape == (3,)
    assert found.dtype == np.float64
    for value, times in zip(found, resamples, strict=True):
        assert float(statistic(drawn(times))[0]) == pytest.approx(value, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_the_value_is_the_statistic_of_every_row_once(name):
    columns, once = columns_of(name), drawn([1, 1, 1, 1, 1])
    expected = pytest.approx(float(metric(name).statistic(*columns)(once)[0]), rel=1e-12)
    assert metric(name).estimate(columns).value == expected
    assert metric(name).estimate(columns, torch.tensor(OWNERS)).value == expected
    assert float(metric(name).statistic(*columns)(3 * once)[0]) == expected


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_a_statistic_depends_on_the_resample(name):
    statistic = metric(name).statistic(*columns_of(name))
    values = {round(float(statistic(drawn([int(u == user) or 3 for u in range(5)]))[0]), 12) for user in range(5)}
    assert len(values) > 1


@pytest.mark.parametrize("name", [name for name in EVERY_METRIC if name not in BINNED])
@pytest.mark.parametrize("times", [[2, 1, 1, 0, 2], [0, 3, 1, 1, 0]])
def test_a_statistic_counts_users_as_often_as_they_were_drawn(name, times):
    expected = metric(name).estimate(copied(name, times)).value
    found = float(metric(name).statistic(*columns_of(name))(drawn(times))[0])
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_the_order_of_rows_does_not_matter(name):
    """Processes share the questions; the value is of all of them."""
    columns = columns_of(name)
    mixed = [column[[5, 2, 7, 0, 3, 6, 1, 4]] for column in columns]
    assert metric(name).estimate(mixed).value == pytest.approx(metric(name).estimate(columns).value, rel=1e-12)


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
        ("novelty@10", 2.0, 1.0, False),
        ("novelty@10", 1.0, 2.0, False),
        ("novelty@10", 1.0, None, False),
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
