"""The loss and the gradients equal those of `F.cross_entropy` on all logits, in tables of few rows."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.nn import softmax_loss as module
from transrec.nn.softmax_loss import softmax_loss, table_rows

CLASSES = 700


def made(states: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(states)
    inputs = torch.randn(states, 16, generator=random), torch.randn(CLASSES, 16, generator=random)
    return *(tensor.requires_grad_() for tensor in inputs), torch.randint(CLASSES, (states,), generator=random)


@pytest.mark.parametrize("states", [1, 127, 128, 300])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_it_equals_the_cross_entropy_of_all_logits(states: int, weight: float) -> None:
    *inputs, targets = made(states)
    loss, expected = softmax_loss(*inputs, targets), F.cross_entropy(inputs[0] @ inputs[1].T, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    found, right = (torch.autograd.grad(weight * value, inputs) for value in (loss, expected))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


def test_high_logits_do_not_overflow() -> None:
    *inputs, targets = made(5)
    loss = softmax_loss(1000 * inputs[0], inputs[1], targets)
    torch.testing.assert_close(loss, F.cross_entropy(1000 * inputs[0] @ inputs[1].T, targets, reduction="sum"))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, inputs))


def test_nothing_to_score_is_a_loss_of_zero() -> None:
    *inputs, targets = made(0)
    loss = softmax_loss(*inputs, targets)
    assert loss.item() == 0
    assert [gradient.count_nonzero().item() for gradient in torch.autograd.grad(loss, inputs)] == [0, 0]


def test_a_loss_without_gradients_computes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, targets = made(20)
    expected = softmax_loss(*inputs, targets).detach()
    monkeypatch.setattr(torch.Tensor, "addmm_", None)
    with torch.no_grad():
        assert torch.equal(softmax_loss(*inputs, targets), expected)


def test_no_table_has_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_ROWS", 8)
    *inputs, targets = made(100)
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    with Sizes():
        softmax_loss(*inputs, targets).backward()
    assert largest == 4 * CLASSES * 16, "the gradient of the classes, not 100 rows of logits"


def test_it_compiles_without_a_graph_break() -> None:
    *inputs, targets = made(300)
    compiled = torch.compile(softmax_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs, targets), softmax_loss(*inputs, targets))


def test_a_gpu_takes_more_rows_as_long_as_the_table_stays_small() -> None:
    assert table_rows(10_000, torch.device("cpu")) == 128
    assert table_rows(2**20, torch.device("cuda")) == 256
    assert table_rows(2**30, torch.device("cuda")) == 128
