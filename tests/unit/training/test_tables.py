"""Gradients of tables in one process; ranks and stages are trained in tests/integration/test_row_wise_tables.py."""

import torch
from torch import nn

from transrec.distributed.world import World
from transrec.training.row_wise import RowwiseAdagradConfig
from transrec.training.tables import Tables


class TwoTables:
    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.items, self.users = nn.Embedding(8, 2, padding_idx=0, sparse=True), nn.Embedding(5, 3, sparse=True)
        groups = [{"params": [self.items.weight, self.users.weight], "name": "embedding", "lr": 1.0, "peak_lr": 1.0}]
        self.tables = Tables(RowwiseAdagradConfig().build(groups, (0.9, 0.999)), World())

    def backward(self, items: list[int], users: list[int]) -> None:
        loss = self.items(torch.tensor(items)).square().sum() + self.users(torch.tensor(users)).square().sum()
        loss.backward()


def test_a_gradient_is_taken_off_its_parameter_and_the_parameter_hidden() -> None:
    """DeepSpeed, which reduces what has a gradient or could have one, meets neither between here and the step."""
    both = TwoTables()
    both.backward([1, 2], [3])
    assert both.items.weight.grad is None
    assert not both.items.weight.requires_grad
    both.tables.after_backward(last=False)
    assert both.items.weight.requires_grad


def test_micro_batches_and_repeated_lookups_add_up() -> None:
    both, dense = TwoTables(), TwoTables().items.weight.detach()
    both.backward([1, 2, 2, 0], [3])
    both.tables.after_backward(last=False)
    both.backward([2, 5, 0], [4])
    both.tables.after_backward(last=True)
    of_items, of_users = both.tables.gradients()
    torch.testing.assert_close(of_items, 2 * torch.stack([dense[1], 3 * dense[2], dense[5]]))
    assert len(of_users) == 2


def test_rows_of_zeros_are_not_updated() -> None:
    """Which rows are looked up for nothing, as padding is, depends on how a batch is divided among ranks."""
    both = TwoTables()
    with torch.no_grad():
        both.items.weight[4] = 0
    both.backward([1, 4, 0], [3])
    both.tables.after_backward(last=True)
    assert len(both.tables.gradients()[0]) == 1


def test_a_table_that_is_not_looked_up_keeps_its_rows() -> None:
    both = TwoTables()
    before = both.users.weight.detach().clone()
    both.items(torch.tensor([1])).sum().backward()
    both.tables.after_backward(last=True)
    both.tables.step(1.0)
    assert both.users.weight.equal(before)


def test_a_step_applies_the_factor_and_forgets_the_gradients() -> None:
    whole, half = TwoTables(), TwoTables()
    for both, factor in ((whole, 1.0), (half, torch.tensor(0.5))):
        both.backward([1], [3])
        both.tables.after_backward(last=True)
        both.tables.step(factor)
        assert both.tables.gradients() == []
        assert both.items.weight.grad is None
    sums = [both.tables.optimizer.state[both.items.weight]["sum_of_squares"] for both in (whole, half)]
    torch.testing.assert_close(sums[1], sums[0] / 4)


def test_membership_is_by_identity() -> None:
    both = TwoTables()
    assert both.items.weight in both.tables
    assert nn.Parameter(both.items.weight.detach().clone()) not in both.tables
