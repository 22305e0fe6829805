"""What every objective of the Union has to do; a newcomer is tested as soon as its line is added."""

from dataclasses import replace

import pytest
import torch

from transrec.config import config_classes
from transrec.data.batch import Sampling
from transrec.objectives import ObjectiveConfig

MEMBERS = list(config_classes(ObjectiveConfig))


@pytest.fixture(params=MEMBERS, ids=lambda member: member.__name__)
def objective(request):
    return request.param().build()


def loss(objective, case, target_mask=None):
    mask = case.batch.target_mask if target_mask is None else target_mask
    batch = replace(case.batch, target_mask=mask, scored=mask.flatten().nonzero()[:, 0])
    return objective(case.states, case.pool, batch)


def test_has_a_name_and_a_sampling(objective):
    assert objective.name in {member.model_fields["name"].default for member in MEMBERS}
    assert isinstance(objective.sampling, Sampling)


def test_every_parameter_of_its_own_gets_a_gradient(objective, make):
    loss(objective, make(objective.sampling)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in objective.parameters())


def test_is_the_sum_over_the_scored_positions(objective, make):
    case = make(objective.sampling)
    mask = case.batch.target_mask
    single = []
    for user, position in mask.nonzero().tolist():
        only = torch.zeros_like(mask)
        only[user, position] = True
        single.append(loss(objective, case, target_mask=only))
    torch.testing.assert_close(loss(objective, case), torch.stack(single).sum())
    assert all(value > 0 for value in single)


def test_unscored_positions_get_no_gradient(objective, make):
    case = make(objective.sampling)
    mask = torch.zeros_like(case.batch.target_mask)
    mask[0, -1] = True
    loss(objective, case, target_mask=mask).backward()
    assert not case.states.grad[~mask].any()
    assert case.states.grad[mask].any()


def test_nothing_scored_is_zero_and_still_has_a_backward_pass(objective, make):
    case = make(objective.sampling)
    value = loss(objective, case, target_mask=torch.zeros_like(case.batch.target_mask))
    value.backward()
    assert value.item() == 0
    assert not case.pool.grad.any()


def test_computes_in_float32_under_autocast(objective, make):
    case = make(objective.sampling)
    exact = loss(objective, case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(objective, case)
    assert value.dtype == torch.float32
    assert torch.equal(value, exact)
    low = objective(case.states.bfloat16(), case.pool.bfloat16(), case.batch)
    assert low.dtype == torch.float32


def test_falls_when_the_target_is_scored_higher(objective, make):
    case = make(objective.sampling)
    before = loss(objective, case)
    (gradient,) = torch.autograd.grad(before, case.states)
    case.states = case.states - 0.01 * gradient
    assert loss(objective, case) < before
