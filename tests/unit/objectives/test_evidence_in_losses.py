"""Evidence in the losses: the same as adding it to the logits by an inner product."""

from dataclasses import replace

import pytest
import torch

from transrec.data.batch import SparseScores
from transrec.objectives.classification import ClassificationConfig
from transrec.objectives.cloze import ClozeConfig
from transrec.objectives.cpc import CPCConfig
from transrec.objectives.next_item import FullSoftmaxConfig, InBatchSoftmaxConfig, NextItemConfig, SampledSoftmaxConfig

EVERY_OBJECTIVE = [
    NextItemConfig(negatives=2),
    InBatchSoftmaxConfig(),
    FullSoftmaxConfig(),
    SampledSoftmaxConfig(),
    CPCConfig(),
    ClassificationConfig(loss="bpr"),
    ClozeConfig(),
    ClozeConfig(candidates=0.5),
]


def sparse(dense):
    rows, columns = dense.nonzero(as_tuple=True)
    return SparseScores(rows, columns, dense[rows, columns])


@pytest.mark.parametrize("config", EVERY_OBJECTIVE, ids=lambda config: config.name)
def test_a_loss_with_evidence_is_that_of_the_sums(config, make):
    """States get a coordinate for each scored position, and the items their evidence there."""
    objective = config.build()
    case = make(objective.sampling)
    scored = case.batch.target_mask
    one, other = (torch.rand(int(scored.sum()), 7) * (torch.rand(int(scored.sum()), 7) < 0.5) for _ in range(2))
    marks = torch.zeros(*scored.shape, int(scored.sum()))
    marks[scored] = torch.eye(int(scored.sum()))
    wide_states = torch.cat([case.states, marks], dim=-1)
    wide_pool = torch.cat([case.pool, (one + other).T], dim=-1)

    expected = objective(wide_states, wide_pool, case.batch)
    found = objective(case.states, case.pool, case.batch, [sparse(one), sparse(other)])

    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, objective(case.states, case.pool, case.batch))


@pytest.mark.parametrize("config", EVERY_OBJECTIVE, ids=lambda config: config.name)
def test_what_is_added_is_learned(config, make):
    objective = config.build()
    case = make(objective.sampling)
    term = sparse(torch.rand(int(case.batch.target_mask.sum()), 7))
    values = term.values.requires_grad_()
    objective(case.states, case.pool, case.batch, [replace(term, values=values)]).backward()
    assert values.grad.abs().sum() > 0
