from collections.abc import Callable

import numpy as np
import pytest
import torch

from transrec.data.batch import Sampling
from transrec.data.examples.candidates import CandidateSampler
from transrec.data.train_stream import TrainStream

POPULARITY = np.array([0, 5, 50, 500, 5, 9])  # by rank: items 3, 2, 5, 1, 4


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.2, 20), (0.95, 95)])
def test_a_share_of_the_items_all_distinct(share: float, count: int) -> None:
    items = np.arange(3, 103)
    drawn, draws = CandidateSampler(items, np.arange(103))(np.random.default_rng(0), share)
    assert len(set(drawn.tolist())) == len(drawn) == count <= draws
    assert set(drawn.tolist()) <= set(items.tolist())


@pytest.mark.parametrize("share", [0.001, 0.2, 0.95])
def test_candidates_are_the_first_distinct_draws(share: float) -> None:
    """As found by sorting; one sampler for all calls, since it keeps a table between them."""
    items, popularity = np.arange(3, 503), np.random.default_rng(0).permutation(503)
    sample, by_rank = CandidateSampler(items, popularity), items[np.argsort(-popularity[items], kind="stable")]
    for seed in range(20):
        rng, count = np.random.default_rng(seed), max(1, round(share * 500))
        ranks = sample._draw(rng, 2 * count)
        while len(first := np.unique(ranks, return_index=True)[1]) < count:
            ranks = np.concatenate([ranks, sample._draw(rng, len(ranks))])
        kept = np.sort(first)[:count]
        drawn, draws = sample(np.random.default_rng(seed), share)
        assert drawn.tolist() == by_rank[ranks[kept]].tolist()
        assert draws == kept[-1] + 1


def test_neither_the_draws_nor_the_pool_are_sorted(
    make_stream: Callable[..., TrainStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a million items, that took several times as long as the rest of a batch."""
    stream = make_stream(Sampling(candidates=0.2))
    windows = stream.slots(0)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("sorted")

    for name in ("unique", "argsort", "sort", "searchsorted"):
        monkeypatch.setattr(np, name, refuse)
    assert len(stream.collate(0, 0, windows).candidates) > 0


def test_the_first_draw_is_log_uniform_in_the_rank_of_popularity() -> None:
    sample = CandidateSampler(np.arange(1, 6), POPULARITY)
    rng = np.random.default_rng(0)
    first = np.bincount([sample(rng, 0.2).items[0] for _ in range(20_000)], minlength=6) / 20_000
    expected = np.diff(np.log(np.arange(1, 7))) / np.log(6)
    np.testing.assert_allclose(first[[3, 2, 5, 1, 4]], expected, atol=0.015)


def test_inclusion_is_what_happens() -> None:
    """The share of the draws with an item among them is 1 − (1 − p)ⁿ, n being how long they took."""
    items = np.arange(1, 101)
    sample, rng, times = CandidateSampler(items, np.arange(101)), np.random.default_rng(0), 3_000
    met, expected = np.zeros(101), np.zeros(101)
    for _ in range(times):
        candidates = sample(rng, 0.2)
        met[candidates.items] += 1 / times
        expected[1:] += np.exp(sample.log_inclusion(items, candidates.draws)) / times
    np.testing.assert_allclose(met, expected, atol=0.04)
    assert expected[100] > 0.9 > 0.1 > expected[1]


def test_who_is_the_only_item_is_certain() -> None:
    sample = CandidateSampler(np.array([4]), POPULARITY)
    assert sample(np.random.default_rng(0), 0.5).items.tolist() == [4]
    assert sample.log_inclusion(np.array([4]), 3).tolist() == pytest.approx([0.0])


def test_a_step_has_candidates_of_its_own(make_stream: Callable[..., TrainStream]) -> None:
    sampling = Sampling(candidates=0.2)
    drawn = []
    for seed in (7, 8):
        stream = make_stream(sampling, seed=seed)
        for step in (0, 1, len(stream)):
            [batch] = stream[step]
            drawn.append(tuple(batch.content.items[batch.candidates].tolist()))
            assert len(drawn[-1]) == round(0.2 * len(stream.examples.sampled))
            assert batch.log_inclusion.shape == (len(batch.content.items),)
            assert (batch.log_inclusion <= 0).all()
            assert batch.log_inclusion.isfinite().all()
    assert len(set(drawn)) == len(drawn)
    [again] = make_stream(sampling)[1]
    assert tuple(again.content.items[again.candidates].tolist()) == drawn[1]
    assert torch.equal(again.log_inclusion, make_stream(sampling)[1][0].log_inclusion)
    assert make_stream()[0][0].candidates is None
