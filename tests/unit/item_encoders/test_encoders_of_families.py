"""Item encoders over a backbone of every family: pooling heads, prompts, and passes that start behind frozen layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from items_only import Items
from tiny_backbones import SIDE, tiny_config, tiny_inputs, tiny_two_towers
from torch import nn

from transrec.adaptation.attach import sites
from transrec.adaptation.k_adapter import KAdapterConfig
from transrec.adaptation.prompt import PromptConfig
from transrec.adaptation.side_network import SideNetworkConfig
from transrec.config import ConfigError
from transrec.item_encoders import backbones, layer_by_layer
from transrec.item_encoders.backbone_encoder import BackboneEncoder
from transrec.item_encoders.families import FAMILIES
from transrec.item_encoders.frozen_prefix import FrozenPrefix, frozen_prefix, why_not_exact
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.pooling import Pooling
from transrec.item_encoders.text import TextEncoderConfig
from transrec.nn.parameter_groups import parameter_groups
from transrec.nn.readout import mean_over

WIDTH = 8
HEADS = [name for name, kind in FAMILIES.items() if kind.head is not None]
each = pytest.mark.parametrize("model_type", sorted(FAMILIES))


def poolings(model_type: str) -> list[Pooling]:
    kind = FAMILIES[model_type]
    return ["mean", *(["cls"] if kind.class_token else []), *(["head"] if kind.head else [])]  # type: ignore[list-item]


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build(model_type: str, pooling: Pooling = "mean", rate: float | None = 0.0, **own: Any) -> BackboneEncoder:
        tiny_config(model_type, **own).save_pretrained(tmp_path)
        torch.manual_seed(0)
        config = TextEncoderConfig if FAMILIES[model_type].modality == "text" else ImageEncoderConfig
        given = config(backbone=str(tmp_path), pretrained=False, pooling=pooling, dropout=rate)
        return given.build(WIDTH, num_items=9)

    return build


def chunk_of(model_type: str) -> dict[str, torch.Tensor]:
    if FAMILIES[model_type].modality == "text":
        return tiny_inputs(model_type, items=3)
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)}


@each
@pytest.mark.parametrize("frozen", ["everything", "all but the last layer"])
def test_kept_states_are_live_ones_bit_for_bit_in_training(build: Any, model_type: str, frozen: str) -> None:
    for pooling in poolings(model_type):
        encoder, chunk = build(model_type, pooling).train(), chunk_of(model_type)
        encoder.backbone.requires_grad_(False)
        if frozen != "everything":
            layer_by_layer.stages(encoder.backbone)[encoder.num_layers][0].requires_grad_(True)
        assert why_not_exact(encoder) is None
        prefix = frozen_prefix(encoder)
        assert prefix == (FrozenPrefix(None, True) if frozen == "everything" else FrozenPrefix(encoder.num_layers - 1))
        live = encoder.encode(chunk)
        kept = prefix.compute(encoder.eval(), chunk)  # as it is computed before training
        encoder.train().frozen_prefix = prefix
        mask = {name: value for name, value in chunk.items() if name == "attention_mask" and not prefix.features}
        assert torch.equal(encoder.encode({"prefix": kept, **mask}), live)


@each
@pytest.mark.parametrize("prompts", [0, 4])
def test_tokens_are_those_that_mean_pooling_averages_also_in_kept_states(
    build: Any, model_type: str, prompts: int
) -> None:
    encoder, chunk = build(model_type, "mean").eval(), chunk_of(model_type)
    if prompts and FAMILIES[model_type].class_token is not None:
        PromptConfig(tokens=prompts).apply(Items(encoder))
    mean = encoder.requires_grad_(False)._features(chunk)
    encoder.gives_tokens = True
    live = encoder._features(chunk)
    mask = encoder._token_mask(chunk, live)
    torch.testing.assert_close(mean_over(mask, live), mean)
    prefix = frozen_prefix(encoder)
    assert prefix == FrozenPrefix(None)
    kept = {"prefix": prefix.compute(encoder, chunk)}
    encoder.frozen_prefix = prefix
    attended = {name: value for name, value in chunk.items() if name == "attention_mask"}
    assert torch.equal(encoder._features(kept | attended), live)
    assert torch.equal(encoder._token_mask(kept | attended, live), mask)


@each
def test_states_are_not_kept_where_a_dropout_stays(build: Any, model_type: str) -> None:
    kind = FAMILIES[model_type]
    off = dict.fromkeys(kind.dropout + kind.stochastic_depth, 0.0) | dict.fromkeys(kind.jitter)
    assert why_not_exact(build(model_type, rate=None, **off).requires_grad_(False)) is None
    for field in off:
        encoder = build(model_type, rate=None, **off | {field: 0.1}).requires_grad_(False)
        found = str(why_not_exact(encoder))
        assert found.startswith("its frozen layers have dropout ("), field
        assert found.endswith("set the encoder's `dropout` to 0"), field


def test_only_a_dropout_of_the_frozen_layers_matters(build: Any) -> None:
    encoder = build("bert")
    encoder.backbone.requires_grad_(False)
    encoder.backbone.encoder.layer[2].requires_grad_(True)
    encoder.backbone.encoder.layer[2].output.dropout.p = 0.1
    assert why_not_exact(encoder) is None
    encoder.backbone.encoder.layer[1].output.dropout.p = 0.1
    assert "output.dropout.p is 0.1" in str(why_not_exact(encoder))


@pytest.mark.parametrize("model_type", HEADS)
def test_a_head_pools_and_is_a_part_of_the_backbone(build: Any, model_type: str) -> None:
    encoder, chunk = build(model_type, "head").eval(), chunk_of(model_type)
    own = encoder.backbone(**encoder.inputs(chunk)).pooler_output
    vectors = encoder.encode(chunk)
    torch.testing.assert_close(
        vectors, nn.functional.gelu(nn.functional.linear(own, encoder.projection.weight, encoder.projection.bias))
    )
    vectors.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    groups = parameter_groups(Items(encoder))
    of_the_head = {name for name, _ in encoder.named_parameters(prefix="item_encoder") if ".backbone.head." in name}
    assert of_the_head
    assert of_the_head <= {member.name for group in ("backbone", "layer_norm") for member in groups[group]}
    head = {member.name for member in groups["head"]}
    assert head == {f"item_encoder.projection.{part}" for part in ("weight", "bias")}
    assert not any("backbone.head" in name for name, _ in build(model_type, "mean").named_parameters())


@pytest.mark.parametrize("model_type", HEADS)
@pytest.mark.parametrize("method", [SideNetworkConfig(towers=["item"]), KAdapterConfig(towers=["item"])])
def test_a_head_leaves_no_place_for_adapters_that_read_every_layer(build: Any, model_type: str, method: Any) -> None:
    method.apply(Items(build(model_type, "mean")))
    with pytest.raises(ConfigError, match=r"has no site 'readout': choose among .*attention_output"):
        method.apply(Items(build(model_type, "head")))


def test_a_checkpoint_without_its_head_cannot_pool_with_it(build: Any) -> None:
    with pytest.raises(ConfigError, match="this siglip_vision_model backbone has no pooling head"):
        build("siglip_vision_model", "head", vision_use_head=False)
    assert build("siglip_vision_model", "mean", vision_use_head=False).encode(chunk_of("siglip_vision_model")).any()


@pytest.mark.parametrize("model_type", [name for name, kind in FAMILIES.items() if kind.class_token is not None])
def test_prompts_follow_the_first_token_and_move_every_vector(build: Any, model_type: str) -> None:
    for pooling in poolings(model_type):
        encoder, chunk = build(model_type, pooling).eval(), chunk_of(model_type)
        before, (plain, _) = encoder.encode(chunk), encoder.embed(chunk)
        PromptConfig(tokens=4).apply(Items(encoder))
        prompts = sites(Items(encoder), "item", "embeddings")[0].module.get_submodule("adapter").tokens
        prompts.data.normal_()
        states, mask = encoder.embed(chunk)
        assert torch.equal(states[:, 1:5], prompts.expand(3, -1, -1))
        assert torch.equal(torch.cat([states[:, :1], states[:, 5:]], dim=1), plain)
        assert mask is None or torch.equal(mask.sum(1), chunk["attention_mask"].sum(1) + 4)
        assert ((encoder.encode(chunk) - before).abs().amax(1) > 1e-6).all()


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_tower_of_two_is_exported_alone(tmp_path: Path, tiny_bert: Path, model_type: str, modality: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    tiny_two_towers(model_type).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": SIDE, "width": SIDE}}))
    kind = TextEncoderConfig if modality == "text" else ImageEncoderConfig
    config = kind(backbone=str(tmp_path), pooling="mean", dropout=0.0)
    trained = config.build(WIDTH, num_items=9)
    config.save_assets(tmp_path / "export")
    again = config.from_export(tmp_path / "export")
    assert "text_config" not in json.loads((tmp_path / "export" / "backbone" / "config.json").read_text())
    built = again.build(WIDTH, num_items=9)
    built.load_state_dict(trained.state_dict())
    if modality == "text":
        records = [{"text": "red shoe"}]
        assert again.content()["text"].encode(records) == config.content()["text"].encode(records)


def test_a_tokenizer_of_siglip_needs_no_sentencepiece(tmp_path: Path, tiny_bert: Path) -> None:
    tiny_two_towers("siglip").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
    names = {"tokenizer_class": "SiglipTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    assert backbones.load_tokenizer(str(tmp_path))("red shoe")["input_ids"] == [2, 5, 8, 3]


def test_texts_fill_all_positions_where_padding_was_read_in_training(tmp_path: Path, tiny_bert: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    records = [{"text": "red shoe"}, {"text": "red blue red blue red blue"}]
    lengths, keys = {}, {}
    for model_type in ("siglip_text_model", "bert"):
        tiny_config(model_type).save_pretrained(tmp_path)
        content = TextEncoderConfig(backbone=str(tmp_path), max_tokens=6).content()["text"]
        encoded = content.encode(records)
        lengths[model_type], keys[model_type] = [len(ids) for ids in encoded], content.key
        assert encoded[0][:4] == [2, 5, 8, 3]
        assert set(encoded[0][4:]) <= {content.pad_id}
    assert lengths == {"siglip_text_model": [32, 32], "bert": [4, 6]}
    assert keys["siglip_text_model"] != keys["bert"]
