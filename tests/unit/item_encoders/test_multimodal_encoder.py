import pytest
import torch
from items_only import Items
from pydantic import ValidationError

from transrec.adaptation.attach import sites
from transrec.config import ConfigError, config_classes
from transrec.data.batch import ItemContent, ModalityContent
from transrec.item_encoders.fusions import FusionConfig
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoder, MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.nn.parameter_groups import parameter_groups
from transrec.nn.readout import Modalities

WIDTH = 8
TEXT, IMAGE = [0, 1], [1, 2]  # rows of items that have it; item 3 has neither
NAMES = [member.model_fields["name"].default for member in config_classes(FusionConfig)]
FUSIONS = pytest.mark.parametrize("fusion", NAMES)


@pytest.fixture(scope="module")
def config(tiny_bert, tiny_vit) -> MultimodalEncoderConfig:
    return MultimodalEncoderConfig(
        text=TextEncoderConfig(backbone=str(tiny_bert), dropout=0.0),
        image=ImageEncoderConfig(backbone=str(tiny_vit), dropout=0.0),
    )


def build(config: MultimodalEncoderConfig, **changes) -> MultimodalEncoder:
    torch.manual_seed(0)
    return MultimodalEncoderConfig(**dict(config) | changes).build(WIDTH, num_items=9).eval()


def content(text: list[int] = TEXT, image: list[int] = IMAGE) -> ItemContent:
    ids = torch.tensor([[2, 5, 3], [2, 8, 3], [2, 9, 3]])
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def modality(rows: list[int], chunk: dict[str, torch.Tensor]) -> ModalityContent:
        own = {name: tensor[: len(rows)] for name, tensor in chunk.items()}
        blank = {name: tensor[:1] for name, tensor in chunk.items()}
        return ModalityContent(torch.tensor(rows, dtype=torch.int64), [own] if rows else [], blank, passes=1)

    modalities = {"text": modality(text, tokens), "image": modality(image, {"pixel_values": pixels})}
    return ItemContent(torch.arange(1, 5), modalities)


def normalised(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(vectors, vectors.shape[-1:])


def test_sum_is_the_mean_of_what_is_present(config):
    model = build(config, fusion="sum")
    fused = model(content())
    text, image = normalised(model.text(content())), normalised(model.image(content()))
    torch.testing.assert_close(fused[:3], torch.stack([text[0], (text[1] + image[1]) / 2, image[2]]))


@FUSIONS
def test_no_modality_is_louder_than_another(config, fusion):
    model = build(config, fusion=fusion)
    model.image.projection.weight.data *= 100
    before = model(content())
    model.image.projection.weight.data *= 100
    torch.testing.assert_close(model(content()), before)


@FUSIONS
def test_an_item_with_nothing_is_zero(config, fusion):
    fused = build(config, fusion=fusion)(content())
    assert not fused[3].any()
    assert fused[:3].any(1).all()
    assert fused.isfinite().all()


@FUSIONS
def test_what_is_missing_is_not_a_vector_of_zeros(config, fusion):
    """Of two items whose vectors are alike, the one that lacks a modality and the one whose vector there is zero."""
    model = build(config, fusion=fusion)
    vectors = torch.randn(2, 2, WIDTH)
    vectors[:, 1] = 0
    present = torch.tensor([[True, False], [True, True]])
    fused = model.fusion(Modalities(("text", "image"), vectors, present, {}))
    lacking, zero = model.fusion(Modalities(("text", "image"), vectors[[0, 0]], present, {}))
    assert not torch.allclose(lacking, zero)
    if fusion == "gated":
        torch.testing.assert_close(fused[0], vectors[0, 0])


@pytest.mark.parametrize("fusion", [name for name in NAMES if name not in {"concat", "gated"}])
def test_what_stands_for_a_missing_modality_changes_no_bit(config, fusion):
    """The others read zeros there, which the encoder provides."""
    model = build(config, fusion=fusion)
    vectors, present = torch.randn(4, 2, WIDTH), torch.tensor([[True, False], [False, True], [True, True], [False] * 2])
    fused = model.fusion(Modalities(("text", "image"), vectors, present, {}))
    other = torch.where(present.unsqueeze(-1), vectors, 7.0)
    assert torch.equal(model.fusion(Modalities(("text", "image"), other, present, {})), fused)


@FUSIONS
@pytest.mark.parametrize(("text", "image"), [([], []), ([], [1]), ([2], []), (TEXT, IMAGE)])
def test_every_weight_has_a_gradient_whatever_is_missing(config, fusion, text, image):
    model = build(config, fusion=fusion)
    model(content(text, image)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_every_tower_runs_as_often_as_agreed(config):
    model, calls = build(config), []
    model.text.backbone.encoder.layer[0].register_forward_hook(lambda *_: calls.append("text"))
    model.image.backbone.layers[0].register_forward_hook(lambda *_: calls.append("image"))
    plain = model(content())
    assert sorted(calls) == ["image", "text"]
    calls.clear()
    assert torch.equal(model(content().with_passes([2, 3])), plain)
    assert (calls.count("text"), calls.count("image")) == (2, 3)


def test_every_item_has_an_id(config):
    model = build(config, id=IdEmbeddingConfig())
    torch.testing.assert_close(model(content())[3], normalised(model.id.embedding.weight[4]))
    assert config.model_copy(update={"id": IdEmbeddingConfig()}).embeds_ids
    assert not config.embeds_ids


def test_an_empty_text_is_a_missing_one(config):
    text = config.content()["text"]
    records = [{"text": "red"}, {"text": ""}, {"text": " "}, {"text": None}]
    assert [ids is None for ids in text.encode(records)] == [False, True, True, True]
    assert config.text is not None
    alone = config.text.content()["text"]
    assert None not in alone.encode(records)
    assert text.key != alone.key


def test_one_modality_is_no_fusion(config):
    with pytest.raises(ValidationError, match="at least two"):
        MultimodalEncoderConfig(text=config.text)


def test_adapters_find_each_tower_and_both(config):
    model = Items(build(config, id=IdEmbeddingConfig()))
    found = {tower: sites(model, tower, "attention_output", None) for tower in ("text", "image", "item")}
    assert [len(of) for of in found.values()] == [3, 2, 5]
    assert [site.module for site in found["item"]] == [s.module for s in (*found["text"], *found["image"])]
    assert {site.width for site in found["text"]} == {32}
    assert {site.width for site in found["image"]} == {16}
    single = Items(model.item_encoder.image)
    assert [s.module for s in sites(single, "image", "ffn_output", [1])] == [
        model.item_encoder.image.backbone.layers[1].mlp.fc2
    ]
    with pytest.raises(ConfigError, match=r"no text tower: choose among .*item, image"):
        sites(single, "text", "ffn_output", None)


def test_both_backbones_are_backbone_parameters(config):
    groups = {
        group: {member.name for member in members} for group, members in parameter_groups(Items(build(config))).items()
    }
    assert {name.split(".")[1] for name in groups["backbone"]} == {"text", "image"}
    assert "item_encoder.image.projection.weight" in groups["head"]
    assert not any(".backbone." in name for name in groups["head"])


def test_an_export_builds_the_same_encoders(config, tmp_path):
    config.save_assets(tmp_path)
    again = config.from_export(tmp_path)
    again.build(WIDTH, 9).load_state_dict(config.build(WIDTH, 9).state_dict())
    assert again.content()["text"].key == config.content()["text"].key
