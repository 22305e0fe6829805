"""An objective is one graph to the compiler: nothing in it depends on values."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import explain

from transrec.config import config_classes
from transrec.objectives import ObjectiveConfig

MEMBERS = list(config_classes(ObjectiveConfig))

pytestmark = pytest.mark.slow  # the compiler's own tracing


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)
def test_an_objective_has_no_graph_breaks(member, make) -> None:
    objective = member().build()
    case = make(objective.sampling)
    found = explain(objective)(case.states, case.pool, case.batch)
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1


def test_a_break_is_counted() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0].sum()

    assert explain(Breaks())(torch.ones(2)).graph_break_count
