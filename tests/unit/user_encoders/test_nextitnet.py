"""NextItNet against PyTorch's convolutions, how far it sees, and what padding does to it."""

import pytest
import torch
from torch.nn import functional as F

from transrec.user_encoders.nextitnet import DilatedConvolution, NextItNetConfig

D = 8
BOTH = pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])


def build(width: int = D, **values):
    torch.manual_seed(0)
    return NextItNetConfig(**values).build(width, 20)


def everything(users: int, length: int) -> torch.Tensor:
    return torch.ones(users, length, dtype=torch.bool)


def plain_convolution(conv: DilatedConvolution, x: torch.Tensor, causal: bool) -> torch.Tensor:
    """`conv` as PyTorch has it: channels first, a weight for each of three taps."""
    weight = conv.linear.weight.unflatten(1, (3, D)).transpose(1, 2)
    padding = (2 * conv.dilation, 0) if causal else (conv.dilation, conv.dilation)
    return F.conv1d(F.pad(x.transpose(1, 2), padding), weight, conv.linear.bias, dilation=conv.dilation).transpose(1, 2)


def layer_norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-8) * norm.weight + norm.bias


@BOTH
def test_equals_the_plain_statement(causal):
    encoder = build(dilations=[1, 4, 2], causal=causal)
    for parameter in encoder.parameters():  # biases and LayerNorms away from 0 and 1, so that each one matters
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = expected = torch.randn(3, 20, D)
    for block, dilation in zip(encoder.blocks, [1, 4, 2], strict=True):
        assert (block.conv1.dilation, block.conv2.dilation) == (dilation, 2 * dilation)
        h = layer_norm(plain_convolution(block.conv1, expected, causal), block.norm1).clamp(min=0)
        expected = expected + layer_norm(plain_convolution(block.conv2, h, causal), block.norm2).clamp(min=0)
    torch.testing.assert_close(encoder(x, everything(3, 20)), expected, rtol=1e-4, atol=1e-5)


def seen_from(position: int, length: int, **values) -> list[int]:
    """Positions whose items the state at `position` depends on."""
    encoder = build(**values).double()
    x = torch.randn(1, length, D, dtype=torch.float64, requires_grad=True)
    encoder(x, everything(1, length))[0, position].sum().backward()
    return x.grad[0].abs().amax(-1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("dilations", "field"), [([1, 4] * 4, 121), ([1, 4] * 2, 61)])
def test_a_causal_state_sees_exactly_its_receptive_field(dilations, field):
    assert seen_from(139, 140, dilations=dilations) == list(range(140 - field, 140))
    assert seen_from(20, 140, dilations=dilations) == list(range(21))


def test_a_state_that_is_not_causal_sees_as_many_items_around_it():
    assert seen_from(70, 141, causal=False) == list(range(10, 131))


@BOTH
def test_a_state_is_the_one_of_the_history_without_padding(causal):
    encoder, lengths = build(causal=causal), [20, 7, 1]
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    mask = torch.arange(20) >= 20 - torch.tensor(lengths).unsqueeze(1)
    x = torch.randn(3, 20, D)
    states = encoder(x, mask)
    for user, length in enumerate(lengths):
        alone = encoder(x[user : user + 1, -length:], everything(1, length))
        torch.testing.assert_close(states[user : user + 1, -length:], alone, rtol=1e-4, atol=1e-5)


def test_initialisation_and_parameters_are_the_papers():
    encoder = build(256)
    per_block = sum(p.numel() for p in encoder.blocks[0].parameters())
    assert (per_block, sum(p.numel() for p in encoder.parameters())) == (394_752, 3_158_016)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            assert parameter.abs().max() <= 0.04, name
            assert parameter.std().item() == pytest.approx(0.02 * 0.88, rel=0.05), name  # cut at two deviations


def test_checkpointing_recomputes_each_block():
    encoder = build(dilations=[1, 4])
    encoder.enable_gradient_checkpointing()
    calls = []
    encoder.blocks[1].conv2.register_forward_hook(lambda *_: calls.append(1))
    encoder(torch.randn(1, 5, D), everything(1, 5)).sum().backward()
    assert len(calls) == 2
