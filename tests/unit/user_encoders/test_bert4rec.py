"""BERT4Rec against PyTorch's own transformer layers, given the same weights."""

import torch
from torch import nn

from transrec.user_encoders.bert4rec import BERT4RecConfig

B, L, D, HEADS = 3, 9, 16, 2


def reference(encoder):
    """`nn.TransformerEncoder` in the form of BERT, with the encoder's weights and no biases in the attention."""
    layer = nn.TransformerEncoderLayer(D, HEADS, 4 * D, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True)
    plain = nn.TransformerEncoder(layer, len(encoder.blocks), enable_nested_tensor=False)
    for theirs, ours in zip(plain.layers, encoder.blocks, strict=True):
        attention = ours.attention
        weights = {
            "self_attn.in_proj_weight": torch.cat(
                [attention.query.weight, attention.key.weight, attention.value.weight]
            ),
            "self_attn.in_proj_bias": torch.zeros(3 * D),
            "self_attn.out_proj.weight": attention.output.weight,
            "self_attn.out_proj.bias": torch.zeros(D),
        }
        pairs = {"linear1": ours.ffn.hidden, "linear2": ours.ffn.output, "norm1": ours.attention_norm}
        for name, module in (pairs | {"norm2": ours.ffn_norm}).items():
            weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        theirs.load_state_dict(weights)
    return plain.eval()


def test_equals_pytorch_s_transformer():
    torch.manual_seed(0)
    encoder = BERT4RecConfig(dropout=0.0, heads=HEADS).build(D, L)
    for parameter in encoder.parameters():  # biases and LayerNorms away from 0 and 1, so that each one matters
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(B, L, D)
    mask = torch.arange(L) >= L - torch.tensor([9, 5, 1]).unsqueeze(1)
    inputs = encoder.input_norm(x + encoder.positions.weight)
    expected = reference(encoder)(inputs, src_key_padding_mask=~mask)
    torch.testing.assert_close(encoder(x, mask)[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_the_newest_item_changes_every_state():
    torch.manual_seed(0)
    encoder = BERT4RecConfig(dropout=0.0).build(D, L)
    x = torch.randn(1, L, D)
    changed = x.clone()
    changed[:, -1] *= -1
    mask = torch.ones(1, L, dtype=torch.bool)
    assert (encoder(x, mask) - encoder(changed, mask)).abs().amax(-1).gt(1e-4).all()
