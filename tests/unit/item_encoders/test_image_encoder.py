import json
from pathlib import Path

import pytest
import torch
from pictured import vision_model
from torch import nn

from transrec.config import ConfigError
from transrec.data.batch import ItemContent, ModalityContent
from transrec.item_encoders import backbones, layer_by_layer
from transrec.item_encoders.families import FAMILIES
from transrec.item_encoders.frozen_prefix import why_not_exact
from transrec.item_encoders.image import ImageEncoder, ImageEncoderConfig, resample

WIDTH = 8
IMAGES = [name for name, kind in FAMILIES.items() if kind.modality == "image"]
WITH_CLASS_TOKEN = [name for name in IMAGES if FAMILIES[name].class_token is not None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for model_type in IMAGES:
        made[model_type] = tmp_path_factory.mktemp(model_type)
        vision_model(model_type).save_pretrained(made[model_type])
    return made


def encoder(folder: Path, **fields) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoderConfig(backbone=str(folder), dropout=0.0, **fields).build(WIDTH, num_items=9)


def content(n: int = 3, size: int = 16, own: int | None = None) -> ItemContent:
    """n items, the last `own` of which have an image."""
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    own = n if own is None else own
    chunks = [{"pixel_values": pixels[:own]}] if own else []
    image = ModalityContent(torch.arange(n - own, n), chunks, {"pixel_values": pixels[:1]}, passes=1)
    return ItemContent(torch.arange(1, n + 1), {"image": image})


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("model_type", WITH_CLASS_TOKEN)
def test_is_gelu_of_the_projected_pooled_state(folders, model_type, pooling):
    model = encoder(folders[model_type], pooling=pooling)
    vectors = model(content())
    pixels = (content().modalities["image"].chunks[0]["pixel_values"].float() / 255 - 0.5) / 0.5
    states = layer_by_layer.run_layers(
        model.backbone, layer_by_layer.embed(model.backbone, {"pixel_values": pixels}), None
    )
    last = states.states[-1]
    registers = 2 if FAMILIES[model_type].registers else 0
    pooled = last[:, 0] if pooling == "cls" else last[:, 1 + registers :].mean(1)
    torch.testing.assert_close(
        vectors, nn.functional.gelu(nn.functional.linear(pooled, model.projection.weight, model.projection.bias))
    )


@pytest.mark.parametrize("model_type", sorted(set(IMAGES) - set(WITH_CLASS_TOKEN)))
def test_without_a_class_token_there_are_means(folders, model_type):
    assert encoder(folders[model_type], pooling="mean")(content()).shape == (3, WIDTH)
    with pytest.raises(ConfigError, match=r"no class token; set it to (head or )?mean"):
        encoder(folders[model_type])


@pytest.mark.parametrize("model_type", [name for name in IMAGES if FAMILIES[name].head is None])
def test_without_a_head_none_can_pool(folders, model_type):
    with pytest.raises(ConfigError, match="no pooling head; set it to"):
        encoder(folders[model_type], pooling="head")


@pytest.mark.parametrize("own", [0, 2])
def test_an_item_without_an_image_is_zero_and_every_weight_has_a_gradient(folders, own):
    model = encoder(folders["vit"])
    vectors = model(content(own=own))
    assert not vectors[: 3 - own].any()
    assert vectors[3 - own :].any(1).all()
    vectors.sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "ZeRO-3 waits for the gradients of all ranks"


def test_pixels_are_normalised_as_the_backbone_was_trained(folders, tmp_path):
    vision_model("vit").save_pretrained(tmp_path)
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 0.5, 0.25], "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    model = encoder(tmp_path)
    white = {"pixel_values": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)}
    expected = torch.tensor([0.9, 1.6, 2.8])
    torch.testing.assert_close(model.inputs(white)["pixel_values"][0, :, 0, 0], expected)
    assert ImageEncoderConfig(backbone=str(tmp_path)).content()["image"].size == 32
    assert ImageEncoderConfig(backbone=str(folders["vit"])).content()["image"].size == 16
    assert model.bfloat16().inputs(white)["pixel_values"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("values", "size"),
    [({"size": 24}, 24), ({"size": {"shortest_edge": 20}}, 16), ({"size": {"shortest_edge": 20}, "crop_size": 12}, 12)],
)
def test_the_size_of_a_preprocessor_is_read_as_it_is_written(tmp_path, values, size):
    vision_model("vit").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert backbones.preprocessing(str(tmp_path)).size == size


@pytest.mark.parametrize("text", ["{", '{"image_mean": [1]}', '{"image_std": [0, 0, 0]}', '{"image_mean": ["a"]}'])
def test_a_malformed_preprocessor_is_an_error(tmp_path, text):
    vision_model("vit").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match="`backbone`: cannot load"):
        backbones.preprocessing(str(tmp_path))


@pytest.mark.parametrize("model_type", [name for name in IMAGES if FAMILIES[name].image_sizes != "own"])
def test_other_sizes_are_read(folders, model_type):
    model = encoder(folders[model_type], image_size=24, pooling="mean")
    assert model(content(size=24)).shape == (3, WIDTH)
    assert model.hidden(content(size=24).modalities["image"].chunks[0]).states[-1].shape[1] in (36, 37, 39)


def test_sizes_that_cannot_be_read(folders):
    with pytest.raises(ConfigError, match="18 is not a multiple"):
        encoder(folders["vit"], image_size=18)
    with pytest.raises(ConfigError, match="reads only 16"):
        encoder(folders["swin"], image_size=24, pooling="mean")


def test_masked_autoencoders_see_everything_unless_asked(folders):
    whole, masked = (encoder(folders["vit_mae"], mask_ratio=ratio).eval() for ratio in (0.0, 0.75))
    assert torch.equal(whole(content()), whole(content()))
    assert torch.equal(whole.train()(content()), whole.eval()(content()))
    assert not torch.allclose(masked(content()), masked(content()))
    assert masked.hidden(content().modalities["image"].chunks[0]).states[-1].shape[1] == 1 + 4
    with pytest.raises(ConfigError, match="not a masked autoencoder"):
        encoder(folders["vit"], mask_ratio=0.5)


def test_a_projection_starts_as_the_reference_s(folders):
    projection = encoder(folders["vit"]).projection
    assert not projection.bias.any()
    assert abs(projection.weight.std().item() - (2 / (16 + WIDTH)) ** 0.5) < 0.08


def test_fewer_layers_are_the_features_after_them(folders):
    shallow, whole = encoder(folders["vit"], layers=1), encoder(folders["vit"])
    chunk = whole.inputs(content().modalities["image"].chunks[0])
    after_one = whole.backbone(**chunk, output_hidden_states=True).hidden_states[1]
    expected = whole.backbone.layernorm(after_one)
    torch.testing.assert_close(shallow.hidden(content().modalities["image"].chunks[0]).states[-1], expected)


def test_an_export_builds_the_same_encoder(folders, tmp_path):
    (folders["dinov2"] / "preprocessor_config.json").write_text(json.dumps({"crop_size": 24, "image_mean": [0.4] * 3}))
    config = ImageEncoderConfig(backbone=str(folders["dinov2"]), layers=1)
    tmp_path.joinpath("export").mkdir()
    config.save_assets(tmp_path / "export")
    (folders["dinov2"] / "preprocessor_config.json").unlink()
    again = config.from_export(tmp_path / "export")
    assert again.content()["image"].size == 24
    weights = config.build(WIDTH, 9).state_dict()
    model = again.build(WIDTH, 9)
    model.load_state_dict(weights)
    assert model._mean_and_std[0].flatten().tolist() == pytest.approx([0.4] * 3)


def test_a_text_backbone_is_refused(tiny_bert):
    with pytest.raises(ConfigError, match="reads text"):
        encoder(tiny_bert)


WHOLE = torch.eye(2, 3)
MIRRORED = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
LOWER_RIGHT = torch.tensor([[0.5, 0, 0.5], [0, 0.5, 0.5]])


def test_a_view_is_what_it_says():
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    whole, mirrored, part = resample(pixels, torch.stack([WHOLE, MIRRORED, LOWER_RIGHT]))
    torch.testing.assert_close(whole, pixels[0].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(mirrored, pixels[1].flip(-1).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(part.mean(), pixels[2, :, 8:, 8:].float().mean(), atol=3, rtol=0)
    corner = pixels[2, :, 15, 15].float()
    torch.testing.assert_close(part[:, 15, 15], corner, atol=1e-3, rtol=0)


def test_views_are_looked_at(folders):
    model, seen = encoder(folders["vit"], augment=True).eval(), content()
    plain = model(seen)
    chunk = seen.modalities["image"].chunks[0]
    chunk["view"] = torch.stack([WHOLE, MIRRORED, WHOLE])
    vectors = model(seen)
    torch.testing.assert_close(vectors[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(vectors[1], plain[1], rtol=1e-3, atol=1e-3)


def test_states_of_what_changes_at_each_step_are_not_kept(folders):
    assert why_not_exact(encoder(folders["vit"])) is None
    assert "set `augment` to false" in why_not_exact(encoder(folders["vit"], augment=True))
