import pytest
import torch
from torch import Tensor, nn

from transrec.config import ConfigError, validate
from transrec.training.optim import OptimizerConfig
from transrec.training.row_wise import LazyAdamConfig, RowwiseAdagradConfig, tables_of

BETAS = (0.9, 0.999)
OPTIMIZERS = pytest.mark.parametrize("config", [LazyAdamConfig(), RowwiseAdagradConfig()], ids=lambda c: c.name)


def table(rows: int = 6, width: int = 3) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width, generator=torch.Generator().manual_seed(1)))


def sparse(rows: list[int], values: Tensor, size: int = 6) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (size, values.shape[1])).coalesce()


def build(config: LazyAdamConfig | RowwiseAdagradConfig, weight: nn.Parameter, lr: float) -> torch.optim.Optimizer:
    return config.build([{"params": [weight], "name": "embedding", "lr": lr, "peak_lr": lr}], BETAS)


def test_rowwise_adagrad_by_hand() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = build(RowwiseAdagradConfig(), weight, 0.5)
    for _ in range(2):
        weight.grad = sparse([1], torch.tensor([[3.0, 1.0]]), 3)
        optimizer.step()
    # The mean square of a gradient is 5, so that of the first step is divided by √5, of the second by √10.
    factor = 0.5 * (5**-0.5 + 10**-0.5)
    torch.testing.assert_close(weight.detach(), -factor * torch.tensor([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0]]))
    assert optimizer.state[weight]["sum_of_squares"].tolist() == [0, 10, 0]


def test_lazy_adam_equals_adam_where_every_step_looks_up_every_row() -> None:
    lazy, dense = table(), table()
    optimizer, adam = build(LazyAdamConfig(), lazy, 0.1), torch.optim.Adam([dense], lr=0.1, betas=BETAS)
    for seed in range(5):
        gradient = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        lazy.grad, dense.grad = sparse([*range(6)], gradient), gradient
        optimizer.step()
        adam.step()
    torch.testing.assert_close(lazy, dense)


@OPTIMIZERS
def test_rows_that_a_step_does_not_look_up_keep_every_bit(config: LazyAdamConfig | RowwiseAdagradConfig) -> None:
    weight = table()
    optimizer = build(config, weight, 0.1)
    weight.grad = sparse([2, 4], torch.ones(2, 3))
    optimizer.step()
    before = weight.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[weight].items() if isinstance(value, Tensor)}
    weight.grad = sparse([0, 4], torch.ones(2, 3))
    optimizer.step()
    others = [1, 2, 3, 5]
    assert weight[others].equal(before[others])
    assert not weight[[0, 4]].eq(before[[0, 4]]).any()
    for name, value in state.items():
        assert optimizer.state[weight][name][others].equal(value[others]), name


@OPTIMIZERS
def test_the_state_is_there_before_the_first_step(config: LazyAdamConfig | RowwiseAdagradConfig) -> None:
    """A checkpoint may come first."""
    weight = table()
    optimizer = build(config, weight, 0.0)
    assert tables_of(optimizer) == [weight]
    tensors = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    assert tensors
    assert all(len(tensor) == len(weight) and not tensor.any() for tensor in tensors)


def test_rowwise_adagrad_keeps_one_number_a_row() -> None:
    optimizer = build(RowwiseAdagradConfig(), table(), 0.1)
    [state] = optimizer.state.values()
    assert {name: value.shape for name, value in state.items()} == {"sum_of_squares": (6,)}


def test_other_optimizers_of_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="embedding"):
        validate(OptimizerConfig, {"embedding": {"name": "sgd"}})
