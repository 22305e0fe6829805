import pytest
import torch
from pydantic import ValidationError

from transrec.adaptation.side_network import SideNetworkConfig, paired
from transrec.config import ConfigError
from transrec.nn.readout import Hidden, Modalities


def change(z, b):
    return torch.relu(z @ b.down.weight.T + b.down.bias) @ b.up.weight.T + b.up.bias


def test_formula(build):
    model = build()
    SideNetworkConfig(init_std=0.5).apply(model)
    net = model.item_encoder.readout.adapter
    assert net.reads == [0, 2, 3]
    with torch.no_grad():
        net.gates.copy_(torch.tensor([-0.1, 0.2]))
    states = [torch.randn(2, 5, 32) for _ in range(4)]
    s = [state[:, 0] for state in states]
    h = s[0] + change(s[0], net.blocks[0])
    for gate, state, block in ((-0.1, s[2], net.blocks[1]), (0.2, s[3], net.blocks[2])):
        g = 1 / (1 + torch.exp(torch.tensor(-gate / 0.1)))
        mixed = g * state + (1 - g) * h
        h = mixed + change(mixed, block)
    read = model.item_encoder.readout(Hidden(states, None, lambda states, mask: states[:, 0]))
    torch.testing.assert_close(read, s[3] + change(h, net.correction))


@pytest.mark.parametrize(("frozen", "graph"), [(True, False), (False, True)])
def test_the_backbone_runs_without_a_graph_where_nothing_of_it_trains(build, run, frozen, graph):
    model = build()
    SideNetworkConfig(also_train=["head"]).apply(model)
    if not frozen:
        model.item_encoder.backbone.embeddings.LayerNorm.weight.requires_grad_(True)
    seen, readout = [], model.item_encoder.readout
    pooled = readout.pooled
    readout.pooled = lambda hidden: seen.extend(hidden.states) or pooled(hidden)
    items, _ = run(model)
    assert len(seen) == 4
    assert [state.requires_grad for state in seen[1:]] == [graph] * 3
    assert items.requires_grad


def test_it_sees_one_vector_of_each_layer(build, run):
    model = build()
    SideNetworkConfig().apply(model)
    shapes = []
    adapter = model.item_encoder.readout.adapter
    adapter.blocks[1].register_forward_hook(lambda module, args, y: shapes.append(tuple(y.shape)))
    run(model)
    assert shapes == [(6, 32)]


def test_layers_that_are_not_there_are_a_readable_error(build):
    with pytest.raises(ConfigError, match=r"`layers`: the item tower cannot be read at layer 3: choose layers 0\.\.2"):
        SideNetworkConfig(layers=[0, 3]).apply(build())
    with pytest.raises(
        ConfigError, match=r"`layers`: the item tower cannot be read at layer 0: .* width of the last states, 32"
    ):
        SideNetworkConfig(layers=[0]).apply(build("swin"))


def between(build):
    """A model with a network between its modalities, in which every item has both, and that network."""
    model = build("multimodal")
    SideNetworkConfig(init_std=0.5, inter_modal=True).apply(model)
    return model, model.item_encoder.fusion.adapter


def states_of(items, present):
    pooled = {name: [torch.randn(items, 32) for _ in range(4)] for name in ("text", "image")}
    return Modalities(("text", "image"), torch.randn(items, 2, 16), torch.tensor(present), pooled)


def test_formula_between_modalities(build):
    model, net = between(build)
    assert net.reads == {"text": [0, 2, 3], "image": [0, 2, 3]}
    with torch.no_grad():
        net.gates.copy_(torch.tensor([-0.1, 0.2, 0.0]))
    x = states_of(2, [[True, True], [True, True]])
    text, image = x.pooled["text"], x.pooled["image"]
    m = torch.zeros(2, 32)
    for gate, read, block in zip((-0.1, 0.2, 0.0), (0, 2, 3), net.blocks, strict=True):
        g = 1 / (1 + torch.exp(torch.tensor(-gate / 0.1)))
        mixed = g * text[read] + (1 - g) * image[read] + m
        m = mixed + change(mixed, block)
    fused = torch.randn(2, 16)
    torch.testing.assert_close(net(x, fused), fused + change(m, net.correction), rtol=2e-5, atol=1e-3)
    torch.testing.assert_close(model.item_encoder.fusion(x), net(x, x.vectors.mean(1)))


def test_a_missing_modality_says_nothing_between_modalities(build):
    _, net = between(build)
    x = states_of(4, [[True, True], [True, False], [False, True], [False, False]])
    expected, fused = net(x, torch.ones(4, 16)), torch.ones(4, 16)
    x.pooled["text"][2][2:] = 9
    x.pooled["image"][0][[1, 3]] = 9
    assert torch.equal(net(x, fused), expected)
    assert torch.equal(expected[3], fused[3])
    x.pooled["text"][2][0] = 9
    assert not torch.equal(net(x, fused)[0], expected[0])


def test_no_backward_pass_runs_through_either_backbone(build, run):
    model, _ = between(build)
    towers, seen = model.item_encoder.towers, []
    for tower in towers.values():
        tower.readout.pooled = lambda hidden, pooled=tower.readout.pooled: seen.extend(hidden.states) or pooled(hidden)
    items, _ = run(model)
    assert len(seen) == 8
    assert not any(state.requires_grad for state in seen)
    assert items.requires_grad


def test_towers_of_unequal_depth_meet_at_evenly_spaced_layers():
    assert paired({"text": [0, 2, 3], "image": [0, 2, 4, 6, 8, 10, 12]}) == {"text": [0, 2, 3], "image": [0, 6, 12]}
    assert paired({"text": [3], "image": [0, 2, 3]}) == {"text": [3], "image": [3]}
    assert paired({"text": [0, 3], "image": [0, 1, 3]}) == {"text": [0, 3], "image": [0, 3]}


def test_between_modalities_there_have_to_be_two(build):
    with pytest.raises(ConfigError, match="reads text and image, but this one reads text"):
        SideNetworkConfig(inter_modal=True).apply(build())
    with pytest.raises(ConfigError, match="reads text and image, but this one reads neither"):
        SideNetworkConfig(inter_modal=True, towers=["item"]).apply(build("id_embedding"))
    with pytest.raises(ValidationError, match="add item to `towers`"):
        SideNetworkConfig(inter_modal=True, towers=["text"])


def test_states_of_two_widths_cannot_be_mixed(build):
    model = build("multimodal")
    model.item_encoder.image.hidden_size = 64
    with pytest.raises(
        ConfigError, match="`inter_modal` needs backbones of the same width, but their widths are text 32, image 64"
    ):
        SideNetworkConfig(inter_modal=True).apply(model)
