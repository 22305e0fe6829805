"""Measures of tasks: macro-F1, users with several targets, sampled ranking, logistic regression."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from transrec.evaluation.estimates import Interval
from transrec.evaluation.full_ranking import rank_targets
from transrec.evaluation.logistic_regression import LogisticRegression, fit
from transrec.evaluation.macro_f1 import macro_f1, macro_f1_of
from transrec.evaluation.metrics import metric
from transrec.evaluation.sampled_ranking import restricted, sampled_candidates


def sklearn_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    return metrics.f1_score(targets, predicted, labels=np.unique(targets), average="macro", zero_division=0)


# Macro-F1


def test_macro_f1_by_hand() -> None:
    """Class 1: 2 TP, 3 true, 3 predicted; class 2: 1 TP, 2 true, 1 predicted; class 3 is predicted, but nobody's."""
    estimate = macro_f1(torch.tensor([1, 1, 1, 2, 2]), torch.tensor([1, 1, 3, 2, 1]))
    assert estimate.value == pytest.approx((4 / 6 + 2 / 3) / 2)


@pytest.mark.parametrize("classes", [2, 5])
def test_macro_f1_and_its_interval_agree_with_drawing_instances(classes: int) -> None:
    rng = np.random.default_rng(classes)
    targets = rng.integers(1, classes + 1, 300)
    predicted = np.where(rng.random(300) < 0.6, targets, rng.integers(1, classes + 1, 300))
    found = macro_f1(torch.from_numpy(targets), torch.from_numpy(predicted), Interval(0.9, 4000))
    assert found.value == pytest.approx(sklearn_f1(targets, predicted))
    draws = rng.integers(0, 300, (400, 300))
    low, high = np.quantile([sklearn_f1(targets[d], predicted[d]) for d in draws], [0.05, 0.95])
    assert found.low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.high == pytest.approx(high, abs=0.2 * (high - low))


def dense_macro_f1(targets: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Macro-F1 (r,) as the definition has it, a class at a time, of pairs that were drawn `counts` (r, n) times."""
    found = []
    for one in np.unique(targets):
        true, called = targets == one, predicted == one
        either = counts @ (true.astype(float) + called)
        found.append(np.divide(2 * (counts @ (true & called)), either, out=np.zeros(len(counts)), where=either > 0))
    return np.stack(found, axis=1).mean(axis=1)


@pytest.mark.parametrize("classes", [1, 2, 9, 300])
def test_macro_f1_of_resamples_has_the_bits_of_its_definition(classes: int) -> None:
    """Also where a class is called that nobody has, and where one is not drawn at all."""
    rng = np.random.default_rng(classes)
    targets, predicted = rng.integers(1, classes + 1, 500), rng.integers(0, classes + 3, 500)
    predicted = np.where(rng.random(500) < 0.5, targets, predicted)
    counts = rng.multinomial(500, np.full(500, 1 / 500), size=20)
    found = macro_f1_of(targets, predicted)(counts)
    np.testing.assert_array_equal(found, dense_macro_f1(targets, predicted, counts))


def test_memory_of_macro_f1_does_not_grow_as_pairs_times_classes() -> None:
    """20,000 classes, each its own true one and called another: a dense table of both would take 6.4 GB."""
    classes = torch.arange(20_000)
    tracemalloc.start()
    try:
        found = macro_f1(classes, classes.roll(1), Interval(resamples=250))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.value, found.high) == (0, 0)
    assert peak < 400e6


# Ranks


def test_accuracy_is_the_share_of_first_ranks() -> None:
    assert metric("accuracy").estimate([torch.tensor([1, 2, 1, 3])]).value == 0.5


def test_targets_of_a_user_are_resampled_together() -> None:
    """Twenty users of fifty targets each, all hit or all missed: there is no more to learn than from twenty."""
    hit = torch.arange(20) < 8
    ranks, users = torch.where(hit, 1, 9).repeat_interleave(50), torch.arange(20).repeat_interleave(50)
    together = metric("HR@1").estimate([ranks], users)
    alone = metric("HR@1").estimate([torch.where(hit, 1, 9)])
    assert together == alone
    careless = metric("HR@1").estimate([ranks])
    assert careless.value == together.value
    assert careless.high - careless.low < (together.high - together.low) / 4


def test_a_mean_is_over_targets_not_over_users() -> None:
    ranks, users = torch.tensor([1, 9, 9, 9]), torch.tensor([7, 8, 8, 8])
    assert metric("HR@1").estimate([ranks], users).value == 0.25


# Sampled ranking


def test_a_target_meets_99_others_and_never_one_that_is_left_out() -> None:
    candidates = torch.ones(501, dtype=torch.bool)
    candidates[0] = False
    users, targets = torch.arange(40), torch.arange(1, 41)
    left_out = torch.stack([targets + 100, targets + 200, torch.zeros(40, dtype=torch.int64)], dim=1)
    sampled = sampled_candidates(users, targets, left_out, candidates)
    rows = [set(row) for row in sampled.tolist()]
    assert [len(row) for row in rows] == [100] * 40
    assert all(target in row for target, row in zip(targets.tolist(), rows, strict=True))
    assert not any(row & set(out) for row, out in zip(rows, left_out.tolist(), strict=True))
    assert torch.equal(sampled, sampled_candidates(users, targets, left_out, candidates))
    assert not torch.equal(sampled[0], sampled[1])
    assert len(set.union(*rows)) > 450, "not always the same ones"


def test_a_small_catalogue_is_compared_with_whole() -> None:
    candidates = torch.tensor([False] + [True] * 5)
    sampled = sampled_candidates(torch.tensor([0]), torch.tensor([2]), torch.tensor([[4]]), candidates)
    assert sorted(sampled[0].tolist()) == [0] * 96 + [1, 2, 3, 5]


def test_the_rank_is_that_among_the_sampled() -> None:
    scores = torch.rand(3, 501)
    candidates = torch.arange(501) > 0
    targets, nobody = torch.tensor([5, 6, 7]), torch.zeros((3, 1), dtype=torch.int64)
    sampled = sampled_candidates(torch.arange(3), targets, nobody, candidates)
    ranks = rank_targets(restricted(lambda a, b: scores[:, a:b], sampled), 500, targets, nobody, candidates)
    for user, target in enumerate(targets.tolist()):
        others = scores[user][sampled[user]]
        assert ranks[user] == 1 + (others > scores[user, target]).sum()


# Logistic regression


def test_logistic_regression_learns_which_item_says_what() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    classes = rng.choice([1, 3], 200)
    histories = [np.array([rng.integers(4, 9), of, rng.integers(4, 9)], np.int32) for of in classes]
    blocks = [(histories[:50], classes[:50]), (histories[50:], classes[50:])]
    asked = SimpleNamespace(history=torch.tensor([[0, 4, 1], [5, 3, 3]]))
    scores = LogisticRegression(fit(blocks, num_items=9), num_items=9, num_classes=4)(asked)(1, 5)
    assert scores.shape == (2, 4)
    assert scores.argmax(1).tolist() == [0, 2]
    assert scores[:, [1, 3]].isneginf().all(), "classes nobody trained with"
