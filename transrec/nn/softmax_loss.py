"""Cross-entropy of a softmax over a large matrix, without the table of all logits.

Shape letters: S states, U classes, D width, R rows of a table of logits.

Designs considered. `F.cross_entropy` on all logits keeps three tables (S, U): the logits, their log-softmax and its
gradient. Checkpointing keeps none, but computes the logits twice. Chosen: the gradient, which follows from the softmax,
is computed together with the loss for R states at a time; that takes one table (R, U), which on a CPU stays in the
cache, and half the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CPU_ROWS = 128
_GPU_ENTRIES = 2**28  # 1 GiB of logits


def softmax_loss(states: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Σ −log softmax of ⟨state, class⟩ at the target, a scalar with a gradient but no second derivative.

    Args:
        states: (S, D) float32.
        classes: (U, D) float32.
        targets: (S,) rows of `classes`.
    """
    learns = torch.is_grad_enabled() and (states.requires_grad or classes.requires_grad)
    loss: Tensor = _SoftmaxLoss.apply(states, classes, targets, learns)  # type: ignore[no-untyped-call]
    return loss


def table_rows(classes: int, device: torch.device) -> int:
    """R, the number of states whose logits are computed together."""
    return _CPU_ROWS if device.type == "cpu" else max(_CPU_ROWS, _GPU_ENTRIES // max(1, classes))


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, classes: Tensor, targets: Tensor, learns: bool) -> Tensor:
        rows = table_rows(len(classes), states.device)
        table = states.new_empty(min(rows, len(states)), len(classes))
        losses = states.new_empty(len(states))
        gradient = states.new_empty(states.shape), torch.zeros_like(classes)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            of_states, target = states[part], targets[part, None]
            logits = torch.mm(of_states, classes.T, out=table[: len(of_states)])
            highest, wanted = logits.amax(1, keepdim=True), logits.gather(1, target)
            total = logits.sub_(highest).exp_().sum(1, keepdim=True)
            losses[part] = (total.log() + highest - wanted).squeeze(1)
            if learns:
                error = logits.div_(total).scatter_add_(1, target, -torch.ones_like(total))
                torch.mm(error, classes, out=gradient[0][part])
                gradient[1].addmm_(error.T, of_states)
        ctx.save_for_backward(*gradient)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_states, of_classes = ctx.saved_tensors
        return of_states * gradient, of_classes * gradient, None, None
