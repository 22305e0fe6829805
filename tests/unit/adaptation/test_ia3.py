import torch

from transrec.adaptation.ia3 import IA3Config, Scale


def test_formula():
    scale = Scale(3)
    x, y = torch.randn(2, 5), torch.randn(2, 3)
    assert torch.equal(scale(x, y), y)
    scale.scale.data = torch.tensor([0.0, 1.0, -2.0])
    torch.testing.assert_close(scale(x, y), torch.stack([0 * y[:, 0], y[:, 1], -2 * y[:, 2]], dim=1))


def test_keys_values_and_the_hidden_layer_of_the_ffn_are_scaled(build):
    model = build()
    IA3Config().apply(model)
    layer, block = model.item_encoder.backbone.encoder.layer[0], model.user_encoder.blocks[0]
    places = [layer.attention.self.key, layer.attention.self.value, layer.intermediate]
    places += [block.attention.key, block.attention.value, block.ffn.activation]
    assert [place.adapter.scale.numel() for place in places] == [32, 32, 64, 16, 16, 64]
    assert sum(isinstance(module, Scale) for module in model.modules()) == 3 * (3 + 2)
