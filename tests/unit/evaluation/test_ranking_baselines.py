"""Two blocks of users, five items, and impressions few enough to count by hand; item 5 is never shown in training."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from transrec.data.batch import Impressions
from transrec.evaluation.ranking_baselines import (
    RankingBaseline,
    by_item,
    count_clicks,
    fit_regression,
    regression,
    similarity_baseline,
)
from transrec.nn.similarity import similarity_kernel

Block = tuple[range, SimpleNamespace]
# (users of the block, [(user, item, label of the first head)])
GIVEN = [
    (2, [(0, 1, 1), (0, 2, 0), (1, 1, 1), (1, 3, np.nan)]),
    (0, []),
    (3, [(0, 1, 0), (0, 4, 1), (2, 2, 0), (2, 2, 1)]),
]


def blocks(given=GIVEN) -> Iterator[Block]:
    for users, rows in given:
        columns = np.array(rows, np.float64).reshape(-1, 3)
        labels = np.stack([columns[:, 2], np.zeros(len(rows))], axis=1).astype(np.float32)
        yield (
            range(users),
            SimpleNamespace(users=columns[:, 0].astype(int), items=columns[:, 1].astype(int), labels=labels),
        )


def ranking_baselines(training, size: int) -> dict[str, RankingBaseline]:
    given = list(training)
    found = {name: by_item(logits) for name, logits in count_clicks(given, size).items()}
    if fitted := fit_regression(given, size):
        found["logistic_regression"] = regression(fitted, size)
    return found


def asked(users: list[int], items: list[int]) -> SimpleNamespace:
    return SimpleNamespace(users=torch.tensor(users), items=torch.tensor(items))


def scores(baseline: RankingBaseline, items: list[int] = [1, 2, 3, 4, 5]) -> list[float]:  # noqa: B006 (read only)
    found = baseline(asked([0] * len(items), items))
    assert found.shape == (len(items), 1)
    return found[:, 0].tolist()


def test_popularity_counts_clicks() -> None:
    """Item 3 was shown, but whether it was clicked is not known."""
    assert scores(ranking_baselines(blocks(), 5)["most_popular"]) == pytest.approx(np.log1p([2, 1, 0, 1, 0]).tolist())


def test_the_rate_of_an_item_is_smoothed_by_ten_impressions_of_the_mean() -> None:
    """Four clicks in seven observed impressions; an item that nobody saw has the mean rate."""
    mean = 4 / 7
    rates = [(2 + 10 * mean) / 13, (1 + 10 * mean) / 13, mean, (1 + 10 * mean) / 11, mean]
    found = torch.sigmoid(torch.tensor(scores(ranking_baselines(blocks(), 5)["item_rate"])))
    assert found.tolist() == pytest.approx(rates)


def test_logistic_regression_is_that_of_scikit_learn_on_the_same_columns() -> None:
    """One column an item and one a user, over all blocks; users and items that training lacks weigh nothing."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    given, first, rows = [], 0, []
    for users in (7, 5, 9):
        triples = [
            (user, int(rng.integers(1, 13)), float(rng.random() < 0.2 + 0.6 * (user % 2)))
            for user in range(users)
            for _ in range(6)
        ]
        given.append((users, triples))
        rows += [(first + u, item, label) for u, item, label in triples]
        first += users
    columns = np.array(rows).astype(int)
    onehot = np.zeros((len(rows), 13 + 21))
    onehot[np.arange(len(rows)), columns[:, 1]] = 1
    onehot[np.arange(len(rows)), 13 + columns[:, 0]] = 1
    model = linear_model.LogisticRegression(max_iter=1000).fit(sparse.csr_array(onehot), columns[:, 2])
    baseline = ranking_baselines(blocks(given), 15)["logistic_regression"]
    found = baseline(asked(columns[:, 0].tolist(), columns[:, 1].tolist()))
    np.testing.assert_allclose(found[:, 0], model.decision_function(onehot), atol=1e-3)
    assert found.shape == (len(rows), 1)
    strangers = baseline(asked([500, 0, 500], [15, 15, 3]))[:, 0]
    weights = model.coef_[0]
    expected = [model.intercept_[0], model.intercept_[0] + weights[13], model.intercept_[0] + weights[3]]
    np.testing.assert_allclose(strangers, expected, atol=1e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_answers_that_are_all_the_same_need_no_regression(label: int) -> None:
    found = ranking_baselines(blocks([(1, [(0, 1, label), (0, 2, label)])]), 5)
    assert set(found) == {"most_popular", "item_rate"}
    assert np.isfinite(scores(found["item_rate"])).all()


def test_without_training_impressions_there_are_no_baselines() -> None:
    assert ranking_baselines(blocks([(1, [(0, 1, np.nan)]), (0, [])]), 5) == {}


# Similarity of content


def shown(candidates: list[int], history: list[list[int]]) -> SimpleNamespace:
    """Over a pool of items 1, 2, 4 and 5."""
    pool = torch.tensor([1, 2, 4, 5])
    rows = torch.searchsorted(pool, torch.tensor(history))
    mask = torch.tensor(history) > 0
    return SimpleNamespace(
        shown=Impressions(pool, {}, torch.searchsorted(pool, torch.tensor(candidates)), rows * mask, mask, {})
    )


def test_similarity_by_hand() -> None:
    """Items 1, 2, 3 and 4 have content, which is centred; item 5 has none, as if it were unlike and like nothing."""
    features = np.array([[3, 1], [1, 3], [-1, 1], [1, -1]], np.float32)  # the mean is (1, 1)
    baseline = similarity_baseline(np.array([1, 2, 3, 4]), features, 5, similarity_kernel)
    found = baseline(shown([1, 4, 5, 1], [[0, 2, 1], [0, 0, 2], [2, 1, 4], [0, 0, 0]]))
    exp = np.exp
    expected = np.log([(exp(0) + exp(5) + 1) / 3, (exp(-5) + 1) / 2, 1, 1])
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-6)
    assert found.shape == (4, 1)


def test_similarity_of_many_impressions_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    baseline = similarity_baseline(
        np.array([1, 2, 4]), rng.normal(size=(3, 4)).astype(np.float32), 5, similarity_kernel
    )
    history = rng.choice([0, 1, 2, 4, 5], (20, 6)).tolist()
    candidates = rng.choice([1, 2, 4, 5], 20).tolist()
    whole = baseline(shown(candidates, history))
    monkeypatch.setattr("transrec.evaluation.ranking_baselines._AT_ONCE", 7)
    torch.testing.assert_close(baseline(shown(candidates, history)), whole)
    one = torch.cat([baseline(shown([c], [h])) for c, h in zip(candidates, history, strict=True)])
    torch.testing.assert_close(one, whole)


def test_a_catalogue_without_content_is_like_nothing() -> None:
    baseline = similarity_baseline(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), 5, similarity_kernel)
    assert baseline(shown([1, 2], [[0, 2, 1], [0, 0, 0]])).tolist() == [[0], [0]]
