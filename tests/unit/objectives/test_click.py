import pytest
import torch

from transrec.objectives.click import click_losses


def test_the_loss_of_each_head_is_summed_over_what_was_observed():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, float("nan")], [1.0, 1.0]])
    observed = torch.tensor([[True, True], [True, False], [False, True]])
    found = click_losses(logits, labels, observed)
    probability = torch.sigmoid(logits)
    assert found[0].item() == pytest.approx((-probability[0, 0].log() - (1 - probability[1, 0]).log()).item(), rel=1e-6)
    assert found[1].item() == pytest.approx((-(1 - probability[0, 1]).log() - probability[2, 1].log()).item(), rel=1e-6)
