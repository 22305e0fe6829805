import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from transrec.adaptation.attach import attach
from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.lora import FreshLowRank, LoRAConfig, LowRank, Ranks, as_peft, merge
from transrec.config import ConfigError


@pytest.fixture
def trained(build):
    """With a LoRA that changes something."""
    model = build().eval()
    LoRAConfig(rank=Ranks(item=3, user=2), alpha=2.0).apply(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank):
                module.b.weight.normal_(std=0.5)
    return model


def test_formula():
    torch.manual_seed(0)
    adapter = LowRank(5, 4, rank=2, alpha=3.0)
    x, y = torch.randn(6, 5), torch.randn(6, 4)
    assert torch.equal(adapter(x, y), y)
    adapter.b.weight.data.normal_()
    torch.testing.assert_close(adapter(x, y), y + 1.5 * (x @ adapter.a.weight.T) @ adapter.b.weight.T)


def test_as_released_the_base_is_lost_and_its_replacement_is_frozen():
    adapter = FreshLowRank(5, 4, rank=2, alpha=3.0)
    x, y = torch.randn(6, 5), torch.randn(6, 4)
    torch.testing.assert_close(adapter(x, y), adapter(x, y + 1))
    torch.testing.assert_close(adapter(x, y), x @ adapter.weight.T + adapter.bias)
    assert {name for name, _ in adapter.named_parameters()} == {"a.weight", "b.weight", "bias"}


def test_as_released_it_computes_in_the_precision_of_the_weights():
    """As after training in fp16, where DeepSpeed has cast the parameters and left the buffer."""
    adapter = FreshLowRank(5, 4, rank=2, alpha=3.0)
    for parameter in adapter.parameters():
        parameter.data = parameter.data.half()
    x = torch.randn(6, 5)
    found = adapter(x.half(), torch.zeros(6, 4).half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), x @ adapter.weight.T + adapter.bias.float(), rtol=1e-2, atol=1e-2)


def test_merging_changes_the_base_and_not_the_function(trained, build, run):
    expected, plain = run(trained), build().eval()
    assert not torch.allclose(expected[0], run(plain)[0], atol=1e-3)
    merge(trained)
    assert trained.state_dict().keys() == plain.state_dict().keys()
    for ours, theirs in zip(run(trained), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(module._forward_hooks for module in trained.modules())


def test_what_cannot_be_merged_is_a_readable_error(build):
    model = build()
    HoulsbyConfig().apply(model)
    with pytest.raises(ConfigError, match="the model has no LoRA"):
        merge(model)
    released = build()
    LoRAConfig(variant="released").apply(released)
    for change in (merge, as_peft):
        with pytest.raises(ConfigError, match="use `variant: canonical`"):
            change(released)


def tiny_bert():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    return BertModel(config, add_pooling_layer=False).eval()


def adapted_bert():
    """The same, with our LoRA at queries and values; ranks differ between them."""
    model = tiny_bert()
    for layer in model.encoder.layer:
        for rank, linear in ((3, layer.attention.self.query), (5, layer.attention.self.value)):
            adapter = LowRank(32, 32, rank, alpha=2.0)
            nn.init.normal_(adapter.b.weight)
            site = type("At", (), {"module": linear, "source": None})()
            attach(site, adapter)
    return model


def test_peft_reads_our_export_and_agrees(tmp_path):
    peft = pytest.importorskip("peft")
    ours = adapted_bert()
    config, tensors = as_peft(ours)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    theirs = peft.PeftModel.from_pretrained(tiny_bert(), tmp_path)
    loaded = {name: p for name, p in theirs.named_parameters() if "lora_" in name}
    assert len(loaded) == len(tensors) == 8
    ids = torch.randint(0, 60, (3, 7))
    expected = theirs(input_ids=ids).last_hidden_state
    assert not torch.allclose(expected, tiny_bert()(input_ids=ids).last_hidden_state, atol=1e-2)
    torch.testing.assert_close(ours(input_ids=ids).last_hidden_state, expected)
    merge(ours)
    torch.testing.assert_close(ours(input_ids=ids).last_hidden_state, expected)


def test_peft_reads_the_adapter_of_the_item_encoders_backbone(trained, tmp_path, build):
    peft = pytest.importorskip("peft")
    config, tensors = as_peft(trained.item_encoder.backbone)
    assert "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight" in tensors
    assert (config["r"], config["lora_alpha"]) == (3, 2.0)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    theirs = peft.PeftModel.from_pretrained(build().eval().item_encoder.backbone, tmp_path)
    ids = torch.randint(0, 60, (3, 7))
    expected = theirs(input_ids=ids).last_hidden_state
    torch.testing.assert_close(trained.item_encoder.backbone(input_ids=ids).last_hidden_state, expected)
