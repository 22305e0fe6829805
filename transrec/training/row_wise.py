"""Optimizers for tables that use sparse gradients to update only the rows that a step has looked up.

Shape letters: N rows of a table, R rows with a gradient, D width.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from transrec.config import Config

_EPS = 1e-8


class LazyAdamConfig(Config):
    """`torch.optim.SparseAdam`: Adam in which the moments and the vector of a row change only in steps that look it up.

    A row's moments do not decay in other steps, and the bias correction counts all steps. This optimizer therefore
    equals Adam only if every step looks up every row.
    """

    name: Literal["lazy_adam"] = Field(
        "lazy_adam", description="Adam whose moments also change only for the rows looked up; uses optimizer.betas"
    )

    def build(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SparseAdam(groups, betas=betas)
        for table in tables_of(optimizer):  # as its first step would: a checkpoint may be written before that step
            moments = {"exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)}
            optimizer.state[table] = {"step": 0, **moments}
        return optimizer


class RowwiseAdagradConfig(Config):
    """Configuration of `RowwiseAdagrad`."""

    name: Literal["rowwise_adagrad"] = Field(
        "rowwise_adagrad", description="Adagrad with one state value per row; needs optimizer.lr.embedding"
    )

    def build(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
        return RowwiseAdagrad(groups)


TableOptimizerConfig = Annotated[LazyAdamConfig | RowwiseAdagradConfig, Field(discriminator="name")]


class RowwiseAdagrad(torch.optim.Optimizer):
    """s_r ← s_r + mean_d g_rd²;  w_r ← w_r − lr · g_r / (√s_r + ε), for the rows r of a sparse gradient g.

    The state is one number per row, (N,), as in FBGEMM's EXACT_ROWWISE_ADAGRAD and in DLRM's RWSAdagrad (Naumov et al.,
    arXiv 1906.00091).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float = 1e-2) -> None:
        super().__init__(groups, {"lr": lr})
        for table in tables_of(self):
            self.state[table]["sum_of_squares"] = table.new_zeros(len(table), requires_grad=False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing calls it with a closure
        """Update the rows of every `grad`, which is sparse and coalesced."""
        for group in self.param_groups:
            for table in (table for table in group["params"] if table.grad is not None):
                rows_R, gradient_RD = table.grad.indices()[0], table.grad.values()
                squares_N = self.state[table]["sum_of_squares"]
                squares_R = squares_N[rows_R] + gradient_RD.square().mean(1)
                squares_N[rows_R] = squares_R
                table.index_add_(0, rows_R, gradient_RD / (squares_R.sqrt() + _EPS).unsqueeze(1), alpha=-group["lr"])


def tables_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The tables that `optimizer` updates."""
    return [table for group in optimizer.param_groups for table in group["params"]]
