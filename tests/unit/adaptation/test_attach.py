import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor, nn

from transrec.adaptation.attach import attach, sites
from transrec.config import ConfigError
from transrec.protocols import Adapter


class Probe(Adapter):
    """Adds a constant, and remembers the shapes it saw."""

    def __init__(self, amount: float = 0.0):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x, y):
        self.seen.append((x.detach(), y.detach()))
        return y + self.amount


def test_sites_of_both_towers(build):
    model = build()
    found = sites(model, "item", "ffn_output", None)
    assert [(s.layer, s.width) for s in found] == [(0, 32), (1, 32), (2, 32)]
    assert found[1].module is model.item_encoder.backbone.encoder.layer[1].output.dense
    assert found[1].source is model.item_encoder.backbone.encoder.layer[1].intermediate
    assert [s.layer for s in sites(model, "item", "query", [2])] == [2]
    (user, _) = sites(model, "user", "attention_output", None)
    assert user.module is model.user_encoder.blocks[0].attention.output
    assert (user.source, user.width) == (model.user_encoder.blocks[0].attention, 16)
    (embeddings,) = sites(model, "item", "embeddings", None)
    assert embeddings.layer is None


def test_unknown_sites_and_layers_are_named(build):
    model = build()
    with pytest.raises(ConfigError, match=r"SASRec.*user tower.*'embeddings'.*attention_output, ffn_hidden"):
        sites(model, "user", "embeddings", None)
    with pytest.raises(ConfigError, match="no site 'ffn_input'"):
        sites(model, "item", "ffn_input", None)
    with pytest.raises(ConfigError, match=r"item tower.*choose among .*none"):
        sites(build("id_embedding"), "item", "ffn_output", None)
    with pytest.raises(ConfigError, match=r"the item tower has layers 0\.\.2"):
        sites(model, "item", "ffn_output", [3])


def test_a_site_takes_one_adapter(build):
    (site, *_) = sites(build(), "user", "ffn_output", None)
    attach(site, Probe())
    with pytest.raises(
        ConfigError, match=r"user\.ffn_output\[0\] already has an adapter, Probe: .* another site for Probe"
    ):
        attach(site, Probe())


def test_only_ends_of_sub_layers_run_in_parallel(build):
    (site, *_) = sites(build(), "user", "query", None)
    with pytest.raises(ConfigError, match="is not the end of a sub-layer"):
        attach(site, Probe(), parallel=True)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("tower", ["item", "user"])
def test_an_adapter_sees_input_and_output_and_replaces_the_output(build, run, tower, parallel):
    model = build()
    (site, *_) = sites(model, tower, "ffn_output", None)
    io = {}
    site.module.register_forward_hook(lambda m, args, y: io.update(x=args[0], y=y))
    site.source.register_forward_hook(lambda m, args, y: io.update(sub_layer=args[0]))
    probe = Probe(0.5)
    attach(site, probe, parallel)
    norm = model.user_encoder.blocks[0].ffn_norm
    if tower == "item":
        norm = model.item_encoder.backbone.encoder.layer[0].output.LayerNorm
    norm.register_forward_hook(lambda m, args, y: io.update(residual_sum=args[0]))
    run(model)
    (x, y) = probe.seen[-1]
    assert torch.equal(x, io["sub_layer" if parallel else "x"])
    assert torch.equal(y, io["y"])
    torch.testing.assert_close(io["residual_sum"], io["sub_layer"] + y + 0.5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_parallel_adapter_keeps_no_activation_alive(build, run, checkpointing):
    model = build()
    for tower in ("item", "user"):
        for site in sites(model, tower, "attention_output", None):
            attach(site, Probe(0.5), parallel=True)
    if checkpointing:
        model.enable_gradient_checkpointing()
    run(model)[1].sum().backward()
    for module in model.modules():
        if isinstance(module, Probe):
            assert len(module.seen) == (2 if checkpointing else 1)
        if hasattr(module, "adapter_input"):
            assert module.adapter_input.x is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_carry_their_own_activations(build, run, duplicate):
    model = build()
    for site in sites(model, "user", "ffn_output", None):
        attach(site, Probe(0.5), parallel=True)
    expected = run(model)[1]
    site.module.adapter_input.x = expected  # as if a forward pass had been cut off by an exception
    twin = duplicate(model)
    assert twin.user_encoder.blocks[1].ffn.output.adapter_input.x is None
    del model, site
    gc.collect()
    assert torch.equal(run(twin)[1], expected)


def test_a_parallel_adapter_without_its_sub_layer_is_an_error(build):
    (site, *_) = sites(build(), "user", "ffn_output", None)
    attach(site, Probe(), parallel=True)
    with pytest.raises(RuntimeError, match="without its sub-layer"):
        site.module(torch.zeros(1, 64))
