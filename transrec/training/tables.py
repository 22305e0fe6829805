"""Embedding tables updated outside DeepSpeed, so that the cost of a step depends only on the rows that it looks up.

DeepSpeed flattens all parameters of its optimizer, and clears, reduces, clips and updates every element of them. But a
step looks up only a few thousand of, say, a million rows.

Designs considered. DeepSpeed's own sparse gradients exist only without ZeRO, and its optimizers update all rows anyway.
Tables as modules outside the model that DeepSpeed wraps would lose their names in checkpoints and exports, and lookups
that return leaves would need their own treatment of padding, repeated lookups and micro-batches. Splitting a table by
rows over ranks would save memory but cost two all-to-all exchanges per lookup, and a million rows fit every device.
Chosen: tables stay parameters of the model, whole on every rank, with the sparse gradients of
`nn.Embedding(sparse=True)`. A hook takes each gradient off its parameter in the backward pass, before DeepSpeed reduces
gradients; at the end of a step, the rows of all ranks are gathered and added in the order of ranks, so that all ranks
make the same update, and an optimizer for sparse gradients applies it. `EngineWithTables` does this inside `backward`
and `step`, as DeepSpeed does for the other parameters, so that the training loop does not handle tables.

Shape letters: R rows with a gradient, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from transrec.distributed.world import World
from transrec.training.row_wise import tables_of


class Tables:
    """The tables' gradients, which DeepSpeed never sees, and the optimizer of their rows."""

    def __init__(self, optimizer: torch.optim.Optimizer, world: World) -> None:
        self.optimizer, self._world = optimizer, world
        self.parameters = tables_of(optimizer)
        self.kinds = tuple(name for name in optimizer.state[self.parameters[0]] if name != "step")  # tensors per table
        self._taken: dict[nn.Parameter, Tensor] = {}  # sums over the micro-batches so far
        for table in self.parameters:
            table.register_post_accumulate_grad_hook(self._take)

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return any(parameter is table for table in self.parameters)

    def _take(self, table: nn.Parameter) -> None:
        gradient, table.grad = table.grad, None
        assert gradient is not None
        taken = self._taken.get(table)
        self._taken[table] = gradient if taken is None else taken + gradient
        table.requires_grad_(False)  # otherwise DeepSpeed without ZeRO would reduce zeros instead of the gradient

    def after_backward(self, last: bool) -> None:
        """Make the tables trainable again; after the last micro-batch of a step, average gradients over ranks."""
        for table in self.parameters:
            table.requires_grad_(True)
        if last:
            own = [self._taken.pop(table, None) for table in self.parameters]
            averaged = self._averaged([_rows(g, t) for g, t in zip(own, self.parameters, strict=True)])
            for table, gradient in zip(self.parameters, averaged, strict=True):
                self._taken[table] = gradient

    def _averaged(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Each table's gradient, averaged over ranks, without rows of zeros, because which rows are zero depends on
        how a batch is divided among ranks."""
        counts = self._world.gather_ints([gradient.indices().shape[1] for gradient in own])
        averaged = []
        for gradient, of_ranks in zip(own, counts.T.tolist(), strict=True):
            rows_R = self._world.gather_rows(gradient.indices()[0], of_ranks)
            values_RD = self._world.gather_rows(gradient.values(), of_ranks) / self._world.size
            total = _sparse(rows_R, values_RD, gradient)
            nonzero = total.values().any(1)
            averaged.append(_sparse(total.indices()[0, nonzero], total.values()[nonzero], gradient))
        return averaged

    def gradients(self) -> list[Tensor]:
        """The rows (R, D) of each averaged gradient; rows that are not in it are zero."""
        return [gradient.values() for gradient in self._taken.values()]

    def step(self, factor: Tensor | float) -> None:
        """Update the rows by their averaged gradient times `factor`."""
        for table, gradient in self._taken.items():
            gradient.values().mul_(factor)
            table.grad = gradient
        self._taken.clear()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def set_step(self, step: int) -> None:
        """Set the number of steps, in optimizers that count them."""
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = step


class EngineWithTables:
    """A DeepSpeed engine whose steps also update the tables; their gradients count towards the gradient norm.

    Args:
        clipping: largest norm of the gradient; 0: no clipping.
    """

    def __init__(self, engine: Any, tables: Tables, clipping: float) -> None:
        self._engine, self.tables, self._clipping = engine, tables, clipping
        self.module, self.optimizer, self.basic_optimizer = engine.module, engine.optimizer, engine.basic_optimizer
        self.train, self.zero_optimization = engine.train, engine.zero_optimization
        self.zero_optimization_stage = engine.zero_optimization_stage
        self.is_gradient_accumulation_boundary = engine.is_gradient_accumulation_boundary
        self._norm: Tensor | None = None  # of the step, where it was computed
        if engine.zero_optimization():
            self._others_norm = engine.optimizer.scaled_global_norm
            engine.optimizer.scaled_global_norm = self._norm_under_zero
        else:
            engine.clip_fp32_gradients = self._clip_without_zero

    def __call__(self, batch: Any) -> Any:
        return self._engine(batch)

    def backward(self, loss: Tensor) -> Any:
        scaled = self._engine.backward(loss)
        self.tables.after_backward(last=self.is_gradient_accumulation_boundary())
        return scaled

    def step(self) -> None:
        last = self.is_gradient_accumulation_boundary()
        self._norm = None
        self._engine.step()
        if last:
            self.tables.step(self._clipping_factor())

    def get_global_grad_norm(self) -> Tensor | None:
        """The norm of all gradients before clipping; None if there is neither ZeRO nor clipping to compute it for."""
        return self._norm

    def _clipping_factor(self) -> Tensor | float:
        if not self._clipping or self._norm is None:
            return 1.0
        return (self._clipping / (self._norm + 1e-6)).clamp(max=1.0)

    def _norm_under_zero(self, *arguments: Any, **named: Any) -> Tensor:
        others = torch.as_tensor(self._others_norm(*arguments, **named))
        self._norm = torch.hypot(others, get_total_norm(self.tables.gradients()).to(others))
        return self._norm

    def _clip_without_zero(self) -> None:
        trained = [p for p in self.module.parameters() if p.grad is not None]
        self._norm = get_total_norm([*(p.grad for p in trained if p.grad is not None), *self.tables.gradients()])
        clip_grads_with_norm_(trained, self._clipping, self._norm)


def tables_beside(engine: Any) -> Tables | None:
    """The tables that an engine updates outside DeepSpeed, if there are any."""
    return engine.tables if isinstance(engine, EngineWithTables) else None


def learning_groups(engine: Any) -> list[dict[str, Any]]:
    """The parameter groups of an engine, including those of its tables."""
    tables = tables_beside(engine)
    found: list[dict[str, Any]] = [*engine.optimizer.param_groups]
    return found if tables is None else [*found, *tables.optimizer.param_groups]


def reduced_gradients(engine: Any) -> list[Tensor]:
    """The averaged gradients between `backward` and `step` without ZeRO; for a table, only rows with a gradient."""
    tables = tables_beside(engine)
    dense = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return dense if tables is None else [*dense, *tables.gradients()]


def _rows(gradient: Tensor | None, table: nn.Parameter) -> Tensor:
    """The coalesced gradient of a table; if there is none, a gradient without rows."""
    if gradient is None:
        none = torch.empty(0, dtype=torch.int64, device=table.device)
        return _sparse(none, table.new_empty((0, table.shape[1])), table)
    return gradient.coalesce()


def _sparse(rows: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The coalesced sparse tensor (N, D) of `values` (R, D), added up where `rows` (R,) repeat."""
    size = tuple(like.shape)
    return torch.sparse_coo_tensor(rows[None], values.detach(), size, check_invariants=False).coalesce()
