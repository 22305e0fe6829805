"""Gathers the rows of all ranks, with gradients.

Shape letters: M rows of each rank, W = M · ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows (M, …) of all ranks, in rank order, (W, …). A row's gradient, summed over the losses of all ranks, goes
    back to its rank. Every rank must call this, and its backward pass, in the same order."""
    if ranks() == 1:
        return rows
    found: Tensor = _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(ranks())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # gloo has no reduce-scatter
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]
