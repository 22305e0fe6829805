import pytest
import torch

from transrec.adaptation.side_network import SideNetworkConfig
from transrec.config import ConfigError
from transrec.hidden import Hidden


def test_formula(build):
    model = build()
    SideNetworkConfig(init_std=0.5).apply(model)
    net = model.item_encoder.readout.adapter
    assert net.reads == [0, 2, 3]
    with torch.no_grad():
        net.gates.copy_(torch.tensor([-1.0, 2.0]))
    states = [torch.randn(2, 5, 32) for _ in range(4)]
    s = [state[:, 0] for state in states]

    def change(z, b):
        return torch.relu(z @ b.down.weight.T + b.down.bias) @ b.up.weight.T + b.up.bias

    h = s[0] + change(s[0], net.blocks[0])
    for gate, state, block in ((-1.0, s[2], net.blocks[1]), (2.0, s[3], net.blocks[2])):
        g = 1 / (1 + torch.exp(torch.tensor(-gate)))
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
    with pytest.raises(ConfigError, match=r"`layers`: 3 of the item tower is not one of its layers 0\.\.2"):
        SideNetworkConfig(layers=[0, 3]).apply(build())
    with pytest.raises(ConfigError, match=r"`layers`: 0 of the item tower.*width of the last states, 32"):
        SideNetworkConfig(layers=[0]).apply(build("swin"))
