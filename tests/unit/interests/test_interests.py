"""The contract of interests, and each interest against its equation, item by item."""

import math

import pytest
import torch

from transrec.config import validate
from transrec.interests.content_interest import ContentInterestConfig
from transrec.interests.din import DINConfig
from transrec.interests.mean import MeanConfig
from transrec.protocols import Interest

WIDTH = 6
MASK = torch.tensor([[False, True, True, True], [False] * 4, [True] * 4, [False, False, False, True]])
EVERY_INTEREST = pytest.mark.parametrize("config", [MeanConfig(), DINConfig(), ContentInterestConfig()], ids=str)


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, WIDTH, generator=generator), torch.randn(4, 4, WIDTH, generator=generator)


def build(config) -> Interest:
    torch.manual_seed(1)
    return config.build(WIDTH)


@EVERY_INTEREST
def test_an_empty_history_is_zero_and_masked_items_change_no_bit(config):
    interest, (candidates, history) = build(config), vectors()
    found = interest(candidates, history, MASK)
    assert not found[1].any()
    assert found[[0, 2, 3]].any(1).all()
    other = torch.where(MASK.unsqueeze(-1), history, 100.0)
    assert torch.equal(interest(candidates, other, MASK), found)


@EVERY_INTEREST
def test_every_weight_and_vector_has_a_finite_gradient(config):
    interest, (candidates, history) = build(config), vectors()
    interest(candidates, history.requires_grad_(), MASK).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in interest.parameters())
    assert history.grad.isfinite().all()
    assert not history.grad[~MASK].any()


def test_mean_by_hand():
    candidates, history = vectors()
    found = build(MeanConfig())(candidates, history, MASK)
    torch.testing.assert_close(found[0], history[0, 1:].mean(0))


def test_din_by_hand():
    candidates, history = vectors()
    din = build(DINConfig(hidden=5))
    expected = torch.zeros(WIDTH)
    for item in history[0, 1:]:
        read = torch.cat([item, candidates[0], item - candidates[0], item * candidates[0]])
        expected += (din.weight(din.activation(din.hidden(read)))) * item
    torch.testing.assert_close(din(candidates, history, MASK)[0], expected)


def test_content_interest_by_hand():
    candidates, history = vectors()
    interest = build(ContentInterestConfig())
    scores = [candidates[0] @ (interest.key.weight @ item) / math.sqrt(WIDTH) for item in history[0, 1:]]
    weights = torch.softmax(torch.stack(scores), 0)
    expected = (weights.unsqueeze(1) * history[0, 1:]).sum(0)
    torch.testing.assert_close(interest(candidates, history, MASK)[0], expected)


def test_the_projection_of_a_long_history_is_a_site():
    assert build(ContentInterestConfig()).site_paths == {"interest_key": ["key"]}


def test_a_setting_of_another_interest_is_refused():
    with pytest.raises(Exception, match="hidden"):
        validate(MeanConfig, {"hidden": 3})
