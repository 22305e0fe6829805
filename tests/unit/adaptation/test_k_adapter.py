import pytest
import torch
from torch.nn import functional as F

from transrec.adaptation.k_adapter import KAdapterConfig, Widths
from transrec.config import ConfigError
from transrec.nn.readout import Hidden


@pytest.fixture(params=["canonical", "released"])
def variant(request):
    return request.param


@pytest.fixture
def adapted(build, variant):
    """With a K-Adapter whose output matters."""
    model = build()
    KAdapterConfig(variant=variant).apply(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapter." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_later_items_and_padding_stay_unseen_in_the_user_encoder(adapted, variant):
    x, mask = torch.randn(2, 5, 16), torch.arange(5) >= torch.tensor([[0], [2]])
    later, padded = x.clone(), x.clone()
    later[:, 4] += 1
    padded[1, :2] += 1
    with torch.no_grad():
        states, seen_later, seen_padding = (adapted.user_encoder(z, mask) for z in (x, later, padded))
    unmoved = torch.equal(states[:, :4][mask[:, :4]], seen_later[:, :4][mask[:, :4]])
    unpadded = torch.equal(states[1, 2:], seen_padding[1, 2:])
    assert (unmoved, unpadded) == ((True, True) if variant == "canonical" else (False, False))


def test_padding_stays_unseen_in_the_item_encoder(adapted, variant):
    ids = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 5, 6, 3, 9, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    with torch.no_grad():
        one, other = adapted.item_encoder.encode({"input_ids": ids, "attention_mask": mask})
    assert torch.allclose(one, other, atol=1e-6) == (variant == "canonical")


def test_formula(build):
    model = build()
    KAdapterConfig(layers=[0, 2], bottleneck=Widths(item=24)).apply(model)
    adapter = model.eval().item_encoder.readout.adapter
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    states = [torch.randn(2, 5, 32) for _ in range(4)]

    def layer(z, k):
        return z + k.up(k.blocks[1](k.blocks[0](k.down(z), None), None))

    h = layer(states[1], adapter.layers[0])
    h = layer(states[3] + h, adapter.layers[1])
    both = torch.cat([states[3], h], dim=-1) @ adapter.combine.weight.T + adapter.combine.bias
    read = model.item_encoder.readout(Hidden(states, None, lambda s, mask: s[:, 0]))
    torch.testing.assert_close(read, both[:, 0])


def test_a_block_is_the_references(build):
    model = build()
    KAdapterConfig().apply(model)
    block = model.eval().user_encoder.readout.adapter.layers[0].blocks[0]
    x = torch.randn(1, 3, 16)
    attention = block.attention
    weights = (attention.query.weight, attention.key.weight, attention.value.weight)
    q, k, v = (F.linear(x[0], weight).view(3, 2, 8) for weight in weights)
    heads = [torch.softmax(q[:, i] @ k[:, i].T / 8**0.5, dim=-1) @ v[:, i] for i in (0, 1)]
    a = block.attention_norm(x[0] + torch.cat(heads, dim=-1) @ attention.output.weight.T)
    expected = block.ffn_norm(a + block.ffn.output(torch.relu(block.ffn.hidden(a))))
    torch.testing.assert_close(block(x, None)[0], expected)


def test_what_cannot_be_read_is_a_readable_error(build):
    with pytest.raises(ConfigError, match=r"`layers`: the item tower cannot be read at layer 3: choose layers 0\.\.2"):
        KAdapterConfig(layers=[3]).apply(build())
    with pytest.raises(
        ConfigError, match=r"`layers`: the item tower cannot be read at layer 0: .* has the width of the last, 32"
    ):
        KAdapterConfig(layers=[0]).apply(build("swin"))
    with pytest.raises(ConfigError, match=r"`heads.item` is 12, but must divide `bottleneck.item`, 20"):
        KAdapterConfig(bottleneck=Widths(item=20)).apply(build())


def test_combination_and_layers_learn_at_rates_of_their_own(build):
    model = build()
    rates = KAdapterConfig().apply(model)
    item, user = model.item_encoder.readout.adapter, model.user_encoder.readout.adapter
    assert (rates[item.layers[0].up.weight], rates[item.combine.weight]) == (5e-6, 5e-5)
    assert (rates[user.layers[0].up.weight], rates[user.combine.weight]) == (5e-6, 1e-4)
