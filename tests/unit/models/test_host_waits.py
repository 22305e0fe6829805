"""What the helper for steps without host waits notices; the steps themselves are in the tests of the models."""

import pytest
import torch
from host_waits import HostWait, step_without_waiting
from torch import Tensor, nn

WAITS = {
    "a value": lambda x: x if x.sum() > 0 else -x,
    "all": lambda x: x if (x > 0).all() else -x,
    "an item": lambda x: x * float(x.detach().sum()),
    "boolean indices": lambda x: x[x > 0],
    "nonzero": lambda x: x[(x > 0).nonzero()[:, 0]],
    "a copy": lambda x: x * torch.tensor([1.0, 2.0], device=x.device),
    "a list of indices": lambda x: x[[0]],
    "moved": lambda x: x * torch.ones(2).to(x.device),
}


class Step(nn.Module):
    def __init__(self, wait: str | None) -> None:
        super().__init__()
        self.weight, self.wait = nn.Parameter(torch.ones(2)), wait

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        x = self.weight * batch
        return {"loss": (x if self.wait is None else WAITS[self.wait](x)).sum()}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_is_noticed(wait: str) -> None:
    with pytest.raises(HostWait):
        step_without_waiting(Step(wait), torch.ones(2))


def test_a_step_without_a_wait_is_not_refused() -> None:
    step_without_waiting(Step(None), torch.ones(2))
