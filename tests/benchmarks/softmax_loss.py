"""Time of the full softmax and its gradients, as a ratio: `python tests/benchmarks/softmax_loss.py [CLASSES ...]`.

1,300 states of width 128, processor time of one core, both methods in turn.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.nn.softmax_loss import softmax_loss

STATES, WIDTH, ROUNDS = 1300, 128, 5
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def all_logits(states: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(states @ classes.T, targets, reduction="sum")


def seconds(loss: Loss, states: Tensor, classes: Tensor, targets: Tensor) -> float:
    start = time.process_time()
    torch.autograd.grad(loss(states, classes, targets), (states, classes))
    return time.process_time() - start


def main() -> None:
    for count in map(int, sys.argv[1:] or ("2000", "12000", "100000")):
        states, classes = torch.randn(STATES, WIDTH) / 4, torch.randn(count, WIDTH)
        inputs = states.requires_grad_(), classes.requires_grad_(), torch.randint(count, (STATES,))
        rounds = [(seconds(all_logits, *inputs), seconds(softmax_loss, *inputs)) for _ in range(ROUNDS)]
        all_at_once, in_rows = (min(times) for times in zip(*rounds, strict=True))
        print(f"{count:>9,} classes: all logits at once take {all_at_once / in_rows:.2f} x the time")


if __name__ == "__main__":
    main()
