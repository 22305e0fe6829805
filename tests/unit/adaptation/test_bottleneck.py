import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from transrec.adaptation.bottleneck import Bottleneck, BottleneckWidths, HoulsbyConfig, PfeifferConfig
from transrec.config import ConfigError


@pytest.fixture(params=["serial", "parallel"])
def mode(request):
    return request.param


def adapter_names(model):
    return {name.partition(".adapter.")[0] for name, _ in model.named_parameters() if ".adapter." in name}


def test_formula():
    torch.manual_seed(0)
    x, y = torch.randn(2, 6), torch.randn(2, 6)
    for parallel in (False, True):
        adapter = Bottleneck(6, 3, init_std=1.0, parallel=parallel)
        for bias in (adapter.down.bias, adapter.up.bias):
            bias.data.normal_()
        z = x if parallel else y
        hidden = (z @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
        torch.testing.assert_close(adapter(x, y), y + hidden @ adapter.up.weight.T + adapter.up.bias)


def test_initialisation():
    torch.manual_seed(0)
    adapter = Bottleneck(768, 64, init_std=0.01, parallel=False)
    for linear in (adapter.down, adapter.up):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not linear.bias.any()


def block_by_hand(block, x, attendable, parallel):
    """A user-encoder block with adapters in plain operations on its weights."""

    def adapted(y, sub_layer_input, adapter):
        z = sub_layer_input if parallel else y
        hidden = torch.relu(z @ adapter.down.weight.T + adapter.down.bias)
        return y + hidden @ adapter.up.weight.T + adapter.up.bias

    attention = block.attention
    outputs = {}
    handle = attention.output.register_forward_pre_hook(lambda m, args: outputs.update(heads=args[0]))
    attention(x, attendable)
    handle.remove()
    y = outputs["heads"] @ attention.output.weight.T
    a = block.attention_norm(x + adapted(y, x, attention.output.adapter))
    y = torch.relu(block.ffn.hidden(a)) @ block.ffn.output.weight.T + block.ffn.output.bias
    return block.ffn_norm(a + adapted(y, a, block.ffn.output.adapter))


def test_a_block_with_adapters_equals_the_computation_by_hand(build, mode):
    model = build()
    HoulsbyConfig(mode=mode, init_std=0.5).apply(model)
    block = model.user_encoder.blocks[1]
    x, attendable = torch.randn(2, 5, 16), torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    expected = block_by_hand(block, x, attendable, parallel=mode == "parallel")
    torch.testing.assert_close(block(x, attendable), expected)


def test_parallel_as_released_adds_the_residual_twice(build):
    """LN(A(x) + f(x) + x), where A(x) = x + W_up ReLU(W_down x + b)."""
    model = build()
    HoulsbyConfig(mode="parallel", variant="released", init_std=0.5).apply(model)
    block = model.user_encoder.blocks[1]
    a = torch.randn(2, 5, 16)
    adapter, frozen = block.ffn.output.adapter, block.ffn.output
    f = torch.relu(block.ffn.hidden(a)) @ frozen.weight.T + frozen.bias
    bottleneck = torch.relu(a @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(block.ffn_norm(a + block.ffn(a)), block.ffn_norm(a + bottleneck + f + a))
    with pytest.raises(ValidationError, match="the serial form is the same in both variants"):
        HoulsbyConfig(variant="released")


def test_drift_is_small_at_first_and_zero_without_noise(build, run, mode):
    plain = run(build())
    for std, check in ((0.01, lambda d: 0 < d < 0.05), (0.0, lambda d: d == 0)):
        model = build()
        HoulsbyConfig(mode=mode, init_std=std).apply(model)
        for adapted, original in zip(run(model), plain, strict=True):
            assert check(((adapted - original).norm() / original.norm()).item())


def test_checkpointing_changes_no_gradient_of_parallel_adapters(build, run):
    def gradients(checkpointing):
        model = build(dropout=0.2)
        HoulsbyConfig(mode="parallel", init_std=0.1).apply(model)
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(3)
        items, users = run(model)
        (users @ items.T).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    torch.testing.assert_close(gradients(True), gradients(False))


def test_towers_sites_and_layers_choose_the_places(build):
    model = build()
    HoulsbyConfig(towers=["item"], sites=["ffn_output"], layers=[0, 2]).apply(model)
    prefix = "item_encoder.backbone.encoder.layer"
    assert adapter_names(model) == {f"{prefix}.0.output.dense", f"{prefix}.2.output.dense"}

    model = build()
    HoulsbyConfig(layers=[1], bottleneck=BottleneckWidths(item=3, user=5)).apply(model)
    assert adapter_names(model) == {
        f"{prefix}.1.attention.output.dense",
        f"{prefix}.1.output.dense",
        *(f"user_encoder.blocks.{i}.{part}.output" for i in (0, 1) for part in ("attention", "ffn")),
    }
    assert model.item_encoder.backbone.encoder.layer[1].output.dense.adapter.down.out_features == 3
    assert model.user_encoder.blocks[0].ffn.output.adapter.down.out_features == 5


def test_a_tower_without_the_site_is_an_error(build):
    with pytest.raises(ConfigError, match="item tower"):
        HoulsbyConfig().apply(build("id_embedding"))


def test_pfeiffer_is_after_the_ffn_only(build):
    model = build()
    PfeifferConfig(towers=["user"]).apply(model)
    assert adapter_names(model) == {f"user_encoder.blocks.{i}.ffn.output" for i in (0, 1)}


def test_pfeiffer_as_released_by_hand(build):
    """v = LN_frozen(f + x), then LN_new(B(v) + f + x)."""
    model = build()
    PfeifferConfig(variant="released", init_std=0.5).apply(model)
    block = model.user_encoder.blocks[0]
    adapter, frozen = block.ffn_norm.adapter, block.ffn_norm
    x = torch.randn(2, 5, 16)
    a = block.attention_norm(x + block.attention(x, None))
    total = a + block.ffn(a)
    v = F.layer_norm(total, (16,), frozen.weight, frozen.bias, frozen.eps)
    bottleneck = torch.relu(v @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(block(x, None), F.layer_norm(bottleneck + total, (16,)))
