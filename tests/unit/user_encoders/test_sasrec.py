"""SASRec against an independent, plain statement of TransRec's user encoder."""

import math

import pytest
import torch
from torch import nn

from transrec.config import ConfigError
from transrec.nn.transformer import attendable
from transrec.user_encoders.sasrec import SASRecConfig

B, L, D = 3, 20, 64


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = SASRecConfig(dropout=0.0).build(D, L)
    for parameter in encoder.parameters():  # biases and LayerNorms away from 0 and 1, so that each one matters
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6) * norm.weight + norm.bias


def attend(x, mask, attention, heads=2):
    """One user at a time, one head at a time, one query at a time."""
    d, rows = D // heads, []
    q, k, v = x @ attention.query.weight.T, x @ attention.key.weight.T, x @ attention.value.weight.T
    for t in range(L):
        joined = []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = torch.stack([q[t, part] @ k[s, part] / math.sqrt(d) for s in range(L)])
            visible = torch.tensor([bool(mask[s]) and s <= t for s in range(L)])
            weights = torch.softmax(scores + torch.where(visible, 0.0, -1e9), dim=0)
            joined.append((weights.unsqueeze(-1) * v[:, part]).sum(0))
        rows.append(torch.cat(joined))
    return torch.stack(rows) @ attention.output.weight.T


def plain_sasrec(encoder, x, mask):
    x = layer_norm(x + encoder.positions.weight, encoder.input_norm)
    for block in encoder.blocks:
        a = layer_norm(x + attend(x, mask, block.attention), block.attention_norm)
        hidden = (a @ block.ffn.hidden.weight.T + block.ffn.hidden.bias).clamp(min=0)
        x = layer_norm(a + hidden @ block.ffn.output.weight.T + block.ffn.output.bias, block.ffn_norm)
    return x


def test_equals_the_plain_statement(encoder):
    x = torch.randn(B, L, D)
    mask = torch.arange(L) >= L - torch.tensor([20, 6, 1]).unsqueeze(1)
    expected = torch.stack([plain_sasrec(encoder, x[b], mask[b]) for b in range(B)])
    torch.testing.assert_close(encoder(x, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_has_exactly_the_parameters_of_the_reference(encoder):
    assert sum(p.numel() for p in encoder.parameters()) == 100_864


def test_initialisation():
    torch.manual_seed(0)
    encoder = SASRecConfig().build(D, L)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            xavier = math.sqrt(2 / sum(parameter.shape))
            assert parameter.std().item() == pytest.approx(xavier, rel=0.1), name


def test_dropout_is_everywhere_and_only_in_training():
    torch.manual_seed(0)
    encoder = SASRecConfig(dropout=0.5).build(D, L)
    x, mask = torch.randn(1, L, D), torch.ones(1, L, dtype=torch.bool)
    assert not torch.equal(encoder(x, mask), encoder(x, mask))
    attention = encoder.blocks[0].attention
    everything = torch.ones(1, 1, L, L, dtype=torch.bool)
    assert not torch.equal(attention(x, everything), attention(x, everything)), "on the attention probabilities"
    assert all(m.p == 0.5 for m in encoder.modules() if isinstance(m, nn.Dropout))
    encoder.eval()
    assert torch.equal(encoder(x, mask), encoder(x, mask))


def test_every_query_may_see_some_key():
    """Some attention kernels give nan where a row is masked out entirely, as a padded query's would be."""
    mask = torch.arange(L) >= L - torch.tensor([20, 3, 0]).unsqueeze(1)
    assert attendable(mask, causal=True).any(-1).all()


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"user_encoder\.heads"):
        SASRecConfig(heads=3).build(D, L)


def test_checkpointing_recomputes_each_block():
    encoder = SASRecConfig().build(D, L)
    encoder.enable_gradient_checkpointing()
    calls = []
    encoder.blocks[1].ffn.register_forward_hook(lambda *_: calls.append(1))
    x, mask = torch.randn(1, L, D), torch.ones(1, L, dtype=torch.bool)
    encoder(x, mask).sum().backward()
    assert len(calls) == 2
    encoder.eval()(x, mask)
    assert len(calls) == 3
