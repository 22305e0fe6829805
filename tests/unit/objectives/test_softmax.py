import math
from dataclasses import replace

import pytest
import torch
from contents import without_content
from torch import nn

from transrec.data.batch import Sampling, SequenceBatch
from transrec.objectives.cloze import ClozeConfig
from transrec.objectives.next_item import FullSoftmaxConfig, InBatchSoftmaxConfig, SampledSoftmaxConfig

# Two users, items a b c d in pool rows 0..3. User 1 went a → b → c, user 2 only c → d.
POOL = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
STATES = torch.tensor([[[0.5, 0.0], [0.0, 2.0]], [[9.0, 9.0], [1.0, 0.5]]])
LOG_POPULARITY = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
BATCH = SequenceBatch(
    content=without_content(torch.tensor([1, 2, 3, 4])),
    inputs=torch.tensor([[0, 1], [0, 2]]),
    input_mask=torch.tensor([[True, True], [False, True]]),
    targets=torch.tensor([[1, 2], [0, 3]]),
    target_mask=torch.tensor([[True, True], [False, True]]),
    scored=torch.tensor([0, 1, 3]),
    negatives=torch.zeros(2, 2, 0, dtype=torch.long),
    log_popularity=LOG_POPULARITY,
    draws=3,
    owned=torch.tensor([[True, True, True, False], [False, False, True, True]]),
    user_ids=["1", "2"],
    counts={},
    occurrences=3,
)


def cross_entropy(logits: dict[str, float], target: str) -> float:
    return math.log(sum(math.exp(value) for value in logits.values())) - logits[target]


def test_in_batch_softmax_by_hand():
    # Candidates of each prediction: what the user does not own, and the target itself.
    expected = (
        cross_entropy({"b": 0.0, "d": 1.0}, "b")  # user 1, state (0.5, 0)
        + cross_entropy({"c": 2.0, "d": 0.0}, "c")  # user 1, state (0, 2)
        + cross_entropy({"a": 1.0, "b": 0.5, "d": 2.0}, "d")  # user 2, state (1, 0.5)
    )
    loss = InBatchSoftmaxConfig(debias=False).build()(STATES, POOL, BATCH)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_in_batch_softmax_debiased_with_temperature_by_hand():
    def logit(score, share):
        return score / 0.5 - math.log(1 - (1 - share) ** 3)  # the batch holds three draws

    expected = (
        cross_entropy({"b": logit(0.0, 0.3), "d": logit(1.0, 0.1)}, "b")
        + cross_entropy({"c": logit(2.0, 0.2), "d": logit(0.0, 0.1)}, "c")
        + cross_entropy({"a": logit(1.0, 0.4), "b": logit(0.5, 0.3), "d": logit(2.0, 0.1)}, "d")
    )
    loss = InBatchSoftmaxConfig(temperature=0.5).build()(STATES, POOL, BATCH)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_in_batch_softmax_needs_to_know_what_users_own():
    objective = InBatchSoftmaxConfig().build()
    assert objective.sampling == Sampling(loss="in_batch_softmax", owned=True)
    with pytest.raises(ValueError, match=r"batch\.owned"):
        objective(STATES, POOL, replace(BATCH, owned=None))


def test_an_items_own_vectors_gradient_is_zero_where_it_is_masked():
    pool = POOL.clone().requires_grad_()
    only_user_1 = torch.tensor([[True, False], [False, False]])
    objective = InBatchSoftmaxConfig().build()
    objective(STATES, pool, replace(BATCH, target_mask=only_user_1, scored=torch.tensor([0]))).backward()
    assert pool.grad.any(dim=1).tolist() == [False, True, False, True]


def test_sampled_softmax_by_hand():
    # Candidates are a, b and d; where the target is one of them it counts once.
    log_q = torch.tensor([0.9, 0.5, 0.4, 0.2]).log()
    batch = replace(BATCH, owned=None, candidates=torch.tensor([0, 1, 3]), log_inclusion=log_q)

    def logit(score, q):
        return score / 0.5 - math.log(q)

    expected = (
        cross_entropy({"b": logit(0.0, 0.5), "a": logit(0.5, 0.9), "d": logit(1.0, 0.2)}, "b")
        + cross_entropy({"c": logit(2.0, 0.4), "a": logit(0.0, 0.9), "b": logit(2.0, 0.5), "d": logit(0.0, 0.2)}, "c")
        + cross_entropy({"d": logit(2.0, 0.2), "a": logit(1.0, 0.9), "b": logit(0.5, 0.5)}, "d")
    )
    loss = SampledSoftmaxConfig(temperature=0.5).build()(STATES, POOL, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_sampled_softmax_over_everything_is_the_full_one():
    batch = replace(BATCH, owned=None, candidates=torch.arange(4), log_inclusion=torch.zeros(4))
    full = FullSoftmaxConfig().build()(STATES, POOL, batch)
    torch.testing.assert_close(SampledSoftmaxConfig().build()(STATES, POOL, batch), full)


def test_sampled_softmax_needs_candidates():
    objective = SampledSoftmaxConfig(candidates=0.1).build()
    assert objective.sampling == Sampling(loss="sampled_softmax", candidates=0.1)
    with pytest.raises(ValueError, match=r"batch\.candidates"):
        objective(STATES, POOL, BATCH)


def test_cloze_is_a_softmax_over_the_catalogue_or_a_sample_of_it():
    assert ClozeConfig().build().sampling == Sampling(loss="cloze", pool="catalogue", masked=0.3)
    sampled = ClozeConfig(masked=0.2, candidates=0.1).build().sampling
    assert sampled == Sampling(loss="cloze", candidates=0.1, masked=0.2)
    full = FullSoftmaxConfig().build()(STATES, POOL, BATCH)
    assert torch.equal(ClozeConfig().build()(STATES, POOL, BATCH), full)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_full_softmax_is_cross_entropy_over_the_catalogue(temperature):
    objective = FullSoftmaxConfig(temperature=temperature).build()
    assert objective.sampling == Sampling(loss="full_softmax", pool="catalogue")
    logits = STATES @ POOL.T / temperature
    expected = sum(
        nn.functional.cross_entropy(logits[user, position], BATCH.targets[user, position])
        for user, position in [(0, 0), (0, 1), (1, 1)]
    )
    torch.testing.assert_close(objective(STATES, POOL, replace(BATCH, owned=None)), expected)
