"""The fit of evidence to held-out targets, in small worlds whose best weights are known."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.data.batch import SparseScores
from transrec.evidence import fitting
from transrec.evidence.fitting import Catalogue, Fit, Fitted, HeldOut, fit, needed, sample

QUESTIONS, ITEMS, WIDTH = 3000, 60, 8
INITIAL = Fitted(1.0, 0.0)


class Alone:
    """The only rank."""

    is_main = True

    def total(self, numbers: np.ndarray) -> np.ndarray:
        return numbers

    def of_main(self, numbers: np.ndarray) -> np.ndarray:
        return numbers


def sparse(matrix: Tensor) -> SparseScores:
    rows, columns = matrix.nonzero(as_tuple=True)
    return SparseScores(rows, columns, matrix[rows, columns])


class World:
    """Targets drawn from a network and one kind of evidence, with a given weight and a scale of 1."""

    def __init__(self, weight: float, seed: int = 0, confidence: float = 1.0) -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.users = torch.randn(QUESTIONS, WIDTH, generator=drawn)
        vectors = torch.randn(ITEMS + 1, WIDTH, generator=drawn) / WIDTH**0.5
        there = torch.rand(QUESTIONS, ITEMS + 1, generator=drawn) < 0.2
        self.scores = there * torch.rand(QUESTIONS, ITEMS + 1, generator=drawn) * 10
        self.vectors, self.candidates = vectors, torch.arange(ITEMS + 1) > 0
        self.left_out = torch.randint(0, ITEMS + 1, (QUESTIONS, 3), generator=drawn)
        logits = self.users @ vectors.T + weight * self.scores.log1p()
        logits[:, 0] = -torch.inf
        logits.scatter_(1, self.left_out, -torch.inf)
        self.targets = torch.multinomial(logits.softmax(1), 1, generator=drawn).squeeze(1)
        self.users *= confidence

    @property
    def known(self) -> Catalogue:
        """With the vectors that are needed, in another order than the items."""
        sampled = sample(self.candidates, seed=0)
        items = needed([self.asked()], sampled).flip(0)
        row_of = torch.full((ITEMS + 1,), -1, dtype=torch.int32).index_copy(
            0, items, torch.arange(len(items), dtype=torch.int32)
        )
        return Catalogue(self.vectors[items], row_of, self.candidates, sampled)

    def asked(self, start: int = 0, stop: int = QUESTIONS) -> HeldOut:
        evidence = [sparse(self.scores[start:stop])]
        return HeldOut(self.users[start:stop], self.targets[start:stop], self.left_out[start:stop], evidence)

    def fitted(self, asked: Sequence[HeldOut] | None = None) -> Fitted:
        return self.fit(asked).kinds[0]

    def fit(self, asked: Sequence[HeldOut] | None = None) -> Fit:
        return fit(asked or [self.asked()], self.known, [INITIAL], Alone())


def terms(found: Fitted, scores: Tensor) -> Tensor:
    return found.weight * torch.log1p(np.exp(found.log_scale) * scores)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_weight_that_made_the_targets_is_found(weight: float) -> None:
    scores = torch.tensor([1.0, 5.0, 10.0])
    world = World(weight)
    expected = terms(Fitted(weight, 0.0), scores)
    assert torch.allclose(terms(world.fitted(), scores), expected, rtol=0.1)


def test_evidence_that_is_noise_gets_no_weight() -> None:
    assert World(weight=0.0).fitted().weight < 0.05


def test_a_network_that_is_too_sure_counts_for_less() -> None:
    """Three times its logits are best divided by three; the evidence beside it weighs what it did."""
    plain, sure = World(1.0), World(1.0, confidence=3.0)
    scores = torch.tensor([1.0, 5.0, 10.0])
    assert sure.fit().network == pytest.approx(plain.fit().network / 3, rel=0.05)
    assert torch.allclose(terms(sure.fitted(), scores), terms(plain.fitted(), scores), rtol=0.1)


def test_the_sum_is_the_cross_entropy_of_a_dense_softmax() -> None:
    world = World(1.0)
    world.left_out[:10, 0] = world.targets[:10]  # a target may be left out of its own ranking, and still counts
    sums = fitting._Sums(world.asked(), world.known)
    logits = 0.7 * world.users @ world.vectors.T + 1.5 * torch.log1p(2.0 * world.scores)
    kept = world.candidates.repeat(QUESTIONS, 1).scatter(1, world.left_out, False)
    kept.scatter_(1, world.targets.unsqueeze(1), True)
    expected = F.cross_entropy(logits.double().masked_fill(~kept, -torch.inf), world.targets, reduction="sum")
    found = sums(torch.tensor(0.7), torch.tensor([1.5]), torch.tensor([2.0]).log())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_sample_stands_for_the_candidates_without_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    world, scores = World(1.0), torch.tensor([1.0, 5.0, 10.0])
    every = world.fitted()
    monkeypatch.setattr(fitting, "CANDIDATES", 20)
    assert len(world.known.sampled) == 20
    assert torch.allclose(terms(world.fitted(), scores), terms(every, scores), rtol=0.1)


def test_questions_in_several_batches_give_the_same_fit() -> None:
    world = World(1.0)
    whole, parts = world.fitted(), world.fitted([world.asked(0, 1000), world.asked(1000)])
    assert parts == pytest.approx(whole, abs=1e-3)


def test_without_questions_the_initial_values_stay() -> None:
    world = World(1.0)
    found = fit([], world.known, [INITIAL], Alone())
    assert found.network == pytest.approx(1)
    assert found.kinds[0] == pytest.approx(INITIAL)


@pytest.mark.parametrize("questions", [1, 5])
def test_a_few_questions_change_little(questions: int) -> None:
    for seed in range(6):
        world = World(1.0, seed)
        found = world.fit([world.asked(0, questions)])
        assert found.kinds[0].weight == pytest.approx(INITIAL.weight, abs=0.6)
        assert np.log(found.network) == pytest.approx(0, abs=0.6)


class Thread(Alone):
    """One of two ranks, each in a thread."""

    def __init__(self, rank: int, gathered: list[np.ndarray], barrier: Barrier) -> None:
        self.rank, self.is_main, self.gathered, self.barrier = rank, rank == 0, gathered, barrier

    def total(self, numbers: np.ndarray) -> np.ndarray:
        return sum(self.gather(numbers))  # type: ignore[return-value]

    def of_main(self, numbers: np.ndarray) -> np.ndarray:
        return self.gather(numbers)[0]

    def gather(self, numbers: np.ndarray) -> list[np.ndarray]:
        self.gathered[self.rank] = numbers
        self.barrier.wait(60)
        found = list(self.gathered)
        self.barrier.wait(60)
        return found


def test_ranks_fit_their_questions_together() -> None:
    world, barrier, gathered = World(1.0), Barrier(2), [np.zeros(0)] * 2
    known, parts = world.known, [[world.asked(0, 1000)], [world.asked(1000)]]

    def run(rank: int) -> Fit:
        return fit(parts[rank], known, [INITIAL], Thread(rank, gathered, barrier))

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(run, range(2))
    assert one == other
    assert one.kinds[0] == pytest.approx(world.fitted(), abs=1e-3)


def test_a_kind_without_any_score_keeps_its_initial_weight() -> None:
    world, nothing = World(1.0), torch.zeros(0, dtype=torch.int64)
    asked = world.asked()
    empty = SparseScores(nothing, nothing, torch.zeros(0))
    both = HeldOut(asked.users, asked.targets, asked.left_out, [*asked.evidence, empty])
    kept = fit([both], world.known, [INITIAL, Fitted(0.3, 9.0)], Alone()).kinds[1]
    assert kept.log_scale == pytest.approx(9.0)
    assert kept.weight == pytest.approx(0.3, rel=0.5)
