"""Counted ranks and running top lists against sorting the whole catalogue.

Shape letters: B users, N items, D width, H history.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transrec.data.batch import SparseScores
from transrec.evaluation.full_ranking import rank_targets, target_losses, top_items
from transrec.nn.dot_product import InnerProducts
from transrec.protocols import BoundedScore


@dataclass(frozen=True)
class Case:
    scores: Tensor  # (B, N + 1); column 0 is padding and never asked for
    targets: Tensor  # (B,)
    history: Tensor  # (B, H), zeros and repeats included
    candidates: Tensor  # (N + 1,)
    chunk: int

    @property
    def catalogue_size(self) -> int:
        return self.scores.shape[1] - 1

    def score(self, a: int, b: int) -> Tensor:
        assert 1 <= a < b <= self.catalogue_size + 1
        return self.scores[:, a:b]


@st.composite
def cases(draw, levels=4):
    """Random scores of few `levels` (many ties); None for scores without ties."""
    users, items, length = draw(st.integers(1, 5)), draw(st.integers(1, 30)), draw(st.integers(0, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if levels is None:
        scores = generator.permuted(np.tile(np.arange(items + 1.0), (users, 1)), axis=1) - items / 2
    else:
        scores = generator.choice([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0][:levels], size=(users, items + 1))
    candidates = generator.random(items + 1) < draw(st.sampled_from([0.3, 1.0]))
    candidates[0] = False
    return Case(
        torch.from_numpy(scores),
        torch.from_numpy(generator.integers(1, items + 1, size=users)),
        torch.from_numpy(generator.integers(0, items + 1, size=(users, length))),
        torch.from_numpy(candidates),
        draw(st.integers(1, 35)),
    )


def rank(case: Case, repeats="count", chunk=None) -> list[int]:
    chunk = chunk or case.chunk
    history, candidates = case.history, case.candidates
    ranks = rank_targets(case.score, case.catalogue_size, case.targets, history, candidates, repeats, chunk)
    assert ranks.dtype == torch.int64
    return ranks.tolist()


def sorted_rank(case: Case, user: int) -> int:
    """Place of the target among what may be shown, sorted so that of equals the target comes last."""
    target = int(case.targets[user])
    seen = set(case.history[user].tolist()) - {target}
    shown = [i for i in range(1, case.catalogue_size + 1) if i == target or (case.candidates[i] and i not in seen)]
    scores = case.scores[user].tolist()
    return 1 + sorted(shown, key=lambda i: (-scores[i], i == target)).index(target)


def released_rank(case: Case, user: int) -> int:
    """Adapter4Rec's `metrics.py`: history to -inf, column 0 dropped, place in a descending sort."""
    scores = case.scores[user].clone()
    scores[case.history[user]] = -torch.inf
    order = torch.argsort(scores[1:], descending=True) + 1
    return int((order == case.targets[user]).nonzero()) + 1


@settings(max_examples=300, deadline=None)
@given(cases(levels=6))
def test_rank_is_the_place_in_a_pessimistic_sort(case):
    assert rank(case) == [sorted_rank(case, u) for u in range(len(case.targets))]


@settings(max_examples=200, deadline=None)
@given(cases(levels=6))
def test_a_repeated_target_can_be_a_miss(case):
    repeated = [int(t) in h for t, h in zip(case.targets, case.history.tolist(), strict=True)]
    assert rank(case, "miss") == [
        case.catalogue_size + 1 if r else counted for r, counted in zip(repeated, rank(case), strict=True)
    ]


@settings(max_examples=200, deadline=None)
@given(cases(levels=None))
def test_the_released_convention_without_ties(case):
    everything = torch.arange(case.catalogue_size + 1) > 0
    case = Case(case.scores, case.targets, case.history, everything, case.chunk)
    for user, found in enumerate(rank(case, "miss")):
        if int(case.targets[user]) in case.history[user]:
            # the released sort puts a masked target behind every item that is not masked
            assert released_rank(case, user) > case.catalogue_size - len(set(case.history[user].tolist()) - {0})
            assert found == case.catalogue_size + 1
        else:
            assert found == released_rank(case, user)


def summed_loss(case: Case, user: int) -> float:
    """Minus the logarithm of the target's softmax among what may be shown, in a plain loop."""
    target = int(case.targets[user])
    seen = set(case.history[user].tolist()) - {target}
    shown = [i for i in range(1, case.catalogue_size + 1) if i == target or (case.candidates[i] and i not in seen)]
    return -math.log(math.exp(case.scores[user, target]) / sum(math.exp(case.scores[user, i]) for i in shown))


@settings(max_examples=200, deadline=None)
@given(cases(levels=None))
def test_the_loss_is_the_cross_entropy_over_what_may_be_shown(case):
    arguments = (case.catalogue_size, case.targets, case.history, case.candidates)
    losses = target_losses(case.score, *arguments, chunk=case.chunk)
    assert losses.dtype == torch.float32
    expected = torch.tensor([summed_loss(case, u) for u in range(len(case.targets))])
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_large_scores_make_a_loss_that_is_large_but_finite():
    scores = torch.tensor([[0.0, 3e4, -3e4, 0.0]])
    nothing, everything = torch.zeros(1, 0, dtype=torch.int64), torch.arange(4) > 0
    losses = [target_losses(lambda a, b: scores[:, a:b], 3, torch.tensor([t]), nothing, everything) for t in (1, 2)]
    assert [loss.item() for loss in losses] == [0.0, 6e4]


def duplicates(users: int, width: int, items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(width)
    one = torch.randn(1, width, generator=generator)
    return torch.randn(users, width, generator=generator), one.repeat(items + 1, 1)


@pytest.mark.parametrize("width", [3, 50, 64, 384])
@pytest.mark.parametrize("users", [1, 7, 64])
@pytest.mark.parametrize("chunk", [33, 100, 1000])
def test_a_model_that_tells_no_items_apart_earns_nothing(width, users, chunk):
    """A float32 product fails this: it rounds equal rows differently by where they lie."""
    user, items = duplicates(users, width, 1000)
    targets = torch.randint(1, 1001, (users,), generator=torch.Generator().manual_seed(0))
    none, everything = torch.zeros(users, 0, dtype=torch.int64), torch.arange(1001) > 0
    ranks = rank_targets(InnerProducts(user, items), 1000, targets, none, everything, chunk=chunk)
    assert ranks.tolist() == [1000] * users


def test_ranks_of_dot_products_do_not_depend_on_chunk_or_users_per_call():
    generator = torch.Generator().manual_seed(0)
    user, items = torch.randn(40, 64, generator=generator), torch.randn(2001, 64, generator=generator)
    items[1001:] = items[1:1001]  # every item twice
    targets = torch.randint(1, 2001, (40,), generator=generator)
    history = torch.randint(0, 2001, (40, 20), generator=generator)
    everything = torch.arange(2001) > 0

    def ranks(rows, chunk):
        score = InnerProducts(user[rows], items)
        return rank_targets(score, 2000, targets[rows], history[rows], everything, chunk=chunk)

    expected = ranks(slice(None), 2000)
    for chunk in (1, 7, 64, 999, 5000):
        assert torch.equal(ranks(slice(None), chunk), expected)
    assert torch.equal(torch.cat([ranks(slice(u, u + 1), 512) for u in range(40)]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dot_products_are_the_exact_ones_rounded_once(dtype):
    user, items = torch.randn(3, 8).to(dtype), torch.randn(11, 8).to(dtype)
    expected = np.float32(user.double().numpy() @ items.double().numpy().T)
    found = InnerProducts(user, items)(4, 9)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected[:, 4:9])


# Scores with a bound


@dataclass(frozen=True)
class Noisy(BoundedScore):
    """Given scores whose rough values are off by up to the margin, as badly as an adversary likes."""

    case: Case
    noise: Tensor  # (B, N + 1) in [-1, 1]
    error: float = 0.3

    def __call__(self, a: int, b: int) -> Tensor:
        return self.case.score(a, b).float()

    def rough(self, a: int, b: int) -> Tensor:
        return self(a, b) + self.error * self.noise[:, a:b]

    def margin(self, a: int, b: int) -> Tensor:
        return torch.full((len(self.noise), 1), 1.001 * self.error)

    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        return self.case.scores[rows, items].float()

    def joined(self, others):
        raise NotImplementedError


@settings(max_examples=300, deadline=None)
@given(cases(levels=6), st.integers(0, 2**32 - 1), st.booleans())
def test_rough_scores_never_change_a_rank(case, seed, extreme):
    """Ties, -inf, histories and items that are no candidates among them; errors are random, or as large as can be."""
    noise = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, case.scores.shape)).float()
    score = Noisy(case, noise.sign() if extreme else noise)
    for repeats in ("count", "miss"):
        found = rank_targets(
            score, case.catalogue_size, case.targets, case.history, case.candidates, repeats, case.chunk
        )
        assert found.tolist() == rank(case, repeats)


def near_ties(width: int, close: int = 40, items: int = 3000, users: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Users, and items of which `close` differ from the target in the last bits of float32, or not at all."""
    generator = torch.Generator().manual_seed(width)
    one = torch.randn(1, width, generator=generator)
    steps = torch.randint(-2, 3, (items + 1, width), generator=generator)
    steps[torch.rand(items + 1, generator=generator) < 0.3] = 0  # duplicates
    matrix = (one.double() * (1 + steps * 2.0**-24)).float()
    matrix[close + 1 :] = torch.randn(items - close, width, generator=generator)
    targets = torch.randint(1, close + 1, (users,), generator=generator)
    return torch.randn(users, width, generator=generator), matrix, targets


@pytest.mark.parametrize("close", [40, 1500])  # pair by pair, and so many that everything is scored exactly
@pytest.mark.parametrize("kind", ["plain", "terms", "unit"])
@pytest.mark.parametrize("width", [3, 64, 384])
def test_ranks_among_near_ties_are_those_of_exact_scores(width, kind, close):
    user, items, targets = near_ties(width, close)
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(1, len(items), (400,), generator=generator).unique()
    term = SparseScores(torch.randint(0, len(user), columns.shape, generator=generator), columns, columns * 1e-6)
    score = InnerProducts(user, items, [term, term] if kind == "terms" else [], unit=kind == "unit")
    history = torch.randint(0, len(items), (len(user), 15), generator=generator)
    candidates = torch.rand(len(items), generator=generator) < 0.9
    candidates[0] = False
    arguments = (len(items) - 1, targets, history, candidates)
    expected = rank_targets(score.__call__, *arguments)
    for chunk in (None, 64, 999):
        assert torch.equal(rank_targets(score, *arguments, chunk=chunk), expected)
    roughly = rank_targets(lambda a, b: score.rough(a, b).clone(), *arguments)
    assert not torch.equal(roughly, expected), "rough scores alone would do: the test proves nothing"


@pytest.mark.parametrize("width", [1, 64, 1000])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_margin_bounds_the_error(width, size):
    generator = torch.Generator().manual_seed(width)
    user, items = torch.randn(30, width, generator=generator), size * torch.randn(501, width, generator=generator)
    score = InnerProducts(user, items)
    error = (score.rough(1, 501).double() - user.double() @ items[1:].double().T).abs().amax(1, keepdim=True)
    assert (error < score.margin(1, 501)).all()
    assert (score.margin(1, 501) < 1e-3 * user.norm(dim=1, keepdim=True) * items.norm(dim=1).amax()).all()


@pytest.mark.parametrize("products", ["high", "medium"])
def test_inputs_that_are_cut_widen_the_margin(products):
    score = InnerProducts(torch.ones(1, 4), torch.ones(3, 4))
    before = InnerProducts(torch.ones(1, 4), torch.ones(3, 4)).margin(1, 3)
    try:
        torch.set_float32_matmul_precision(products)
        after = score.margin(1, 3)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert after > 100 * before


def test_single_scores_are_those_of_chunks():
    user, items, _ = near_ties(64)
    term = SparseScores(torch.tensor([3, 0]), torch.tensor([5, 9]), torch.tensor([0.5, -2.0]))
    score = InnerProducts(user, items, [term])
    rows, places = torch.tensor([0, 3, 3, 7, 0]), torch.tensor([9, 5, 9, 9, 1])
    assert torch.equal(score.at(rows, places), score(1, 11)[rows, places - 1])
    assert score.at(rows[:0], places[:0]).tolist() == []


def test_joined_scores_are_those_of_each():
    user, items, _ = near_ties(8)
    terms = [
        SparseScores(torch.tensor([1, 0]), torch.tensor([2, 4]), torch.tensor([0.5, 2.0])),
        SparseScores(torch.tensor([2, 0]), torch.tensor([1, 4]), torch.tensor([1.5, 3.0])),
    ]
    one, other = InnerProducts(user[:4], items, terms[:1]), InnerProducts(user[4:], items, terms[1:])
    whole = one.joined([other])
    assert torch.equal(whole(1, 7), torch.cat([one(1, 7), other(1, 7)]))
    assert torch.equal(whole.at(torch.tensor([4, 6]), torch.tensor([4, 1])), other(1, 5)[[0, 2], [3, 0]])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_an_error(value):
    user, items, targets = near_ties(4, 10, items=50, users=3)
    user[1, 2] = value
    nothing, everything = torch.zeros(3, 0, dtype=torch.int64), torch.arange(51) > 0
    items[7, 2] = 0  # inf times 0 is NaN
    with pytest.raises(ValueError, match="scores are NaN"):
        rank_targets(InnerProducts(user, items), 50, targets, nothing, everything)


def test_products_beyond_float32_are_ranked_as_exact_ones():
    user, items, targets = near_ties(4, 10, items=50, users=3)
    score = InnerProducts(1e30 * user, 1e10 * items)
    arguments = (50, targets, torch.zeros(3, 0, dtype=torch.int64), torch.arange(51) > 0)
    assert torch.equal(rank_targets(score, *arguments), rank_targets(score.__call__, *arguments))


def test_no_call_asks_for_more_than_a_chunk_and_one_chunk_is_scored_once():
    calls = []

    def score(a, b):
        calls.append((a, b))
        return torch.zeros(2, b - a)

    arguments = (torch.tensor([1, 6]), torch.zeros(2, 0, dtype=torch.int64), torch.arange(11) > 0)
    rank_targets(score, 10, *arguments, chunk=16)
    assert calls == [(1, 11)]
    calls.clear()
    rank_targets(score, 10, *arguments, chunk=4)
    assert calls == [(1, 5), (5, 9), (9, 11), (5, 9), (1, 5)]  # no target in the last: not scored for one


@pytest.mark.parametrize("item", [1, 5, 10])
@pytest.mark.parametrize("chunk", [3, 100])
def test_nan_is_an_error_wherever_it_is(item, chunk):
    scores = torch.zeros(2, 11)
    scores[1, item] = torch.nan
    everything, history = torch.arange(11) > 0, torch.zeros(2, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 scores are NaN"):
        rank_targets(lambda a, b: scores[:, a:b], 10, torch.tensor([2, 4]), history, everything, chunk=chunk)
    with pytest.raises(ValueError, match="NaN"):
        top_items(lambda a, b: scores[:, a:b], 10, None, everything, 3, chunk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 1])}, "targets"),
        ({"targets": torch.tensor([1, 11])}, "targets"),
        ({"targets": torch.tensor([1.0, 2.0])}, "int64"),
        ({"targets": torch.tensor([1, 2, 3]), "history": torch.zeros(3, 1).long()}, r"expected \(3, 10\)"),
        ({"history": torch.tensor([[11], [0]])}, "history"),
        ({"history": torch.tensor([[-1], [0]])}, "history"),
        ({"history": torch.tensor([1, 2])}, "history"),
        ({"candidates": torch.arange(11) >= 0}, "entry 0"),
        ({"candidates": torch.arange(10) > 0}, "candidates"),
        ({"candidates": torch.arange(11)}, "bool"),
        ({"repeats": "skip"}, "count, miss"),
        ({"chunk": 0}, "chunk"),
        ({"score": lambda a, b: torch.zeros(2, 3)}, "shape"),
    ],
)
def test_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "score": lambda a, b: torch.zeros(2, b - a),
        "catalogue_size": 10,
        "targets": torch.tensor([1, 2]),
        "history": torch.zeros(2, 1, dtype=torch.int64),
        "candidates": torch.arange(11) > 0,
    }
    with pytest.raises(ValueError, match=message):
        rank_targets(**(arguments | change))


@settings(max_examples=300, deadline=None)
@given(cases(levels=6), st.integers(1, 40), st.booleans())
def test_top_items_are_the_head_of_a_stable_sort(case, top, mask):
    history = case.history if mask else None
    scores, indices = top_items(case.score, case.catalogue_size, history, case.candidates, top, case.chunk)
    assert scores.dtype == torch.float32
    for user in range(len(case.targets)):
        seen = set(case.history[user].tolist()) if mask else set()
        shown = [i for i in range(1, case.catalogue_size + 1) if case.candidates[i] and i not in seen]
        row = case.scores[user].tolist()
        expected = sorted(shown, key=lambda i: (-row[i], i))[:top]
        left = top - len(expected)
        assert indices[user].tolist() == expected + [0] * left
        assert scores[user].tolist() == [row[i] for i in expected] + [-np.inf] * left


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_top_items_order_every_float(values):
    row = torch.tensor([[0.0, *values]])
    everything = torch.arange(row.shape[1]) > 0
    scores, indices = top_items(lambda a, b: row[:, a:b], len(values), None, everything, len(values), 7)
    assert scores[0].tolist() == sorted(values, reverse=True)
    assert [values[i - 1] for i in indices[0].tolist()] == scores[0].tolist()


def test_every_user_may_have_candidates_of_their_own() -> None:
    scores = torch.tensor([[0.0, 5.0, 4.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    candidates = torch.tensor([[False, False, True, True], [False, True, True, False]])
    history = torch.zeros((2, 1), dtype=torch.int64)
    found, items = top_items(lambda a, b: scores[:, a:b], 3, history, candidates, 2, chunk=2)
    assert items.tolist() == [[2, 3], [2, 1]]
    assert found.tolist() == [[4.0, 3.0], [2.0, 1.0]]
    candidates[1, 0] = True
    with pytest.raises(ValueError, match="entry 0"):
        top_items(lambda a, b: scores[:, a:b], 3, history, candidates, 2)


def test_top_items_refuses_history_of_other_users():
    with pytest.raises(ValueError, match=r"expected \(2, 3\)"):
        top_items(lambda a, b: torch.zeros(1, b - a), 3, torch.zeros(2, 1).long(), torch.arange(4) > 0, 1)


def test_top_items_refuses_an_empty_list():
    with pytest.raises(ValueError, match="at least 1 item"):
        top_items(lambda a, b: torch.zeros(1, b - a), 3, None, torch.arange(4) > 0, 0)
