"""Fusions that read every word piece and patch instead of one vector of each modality."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from contents import of_text
from host_waits import step_without_waiting
from items_only import Items
from pictured import vision_model
from torch import Tensor, nn

from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.k_adapter import KAdapterConfig
from transrec.adaptation.selective import FrozenBackboneConfig
from transrec.adaptation.side_network import SideNetworkConfig
from transrec.config import ConfigError, config_classes, validate
from transrec.data.batch import Chunk, ItemContent, ModalityContent
from transrec.item_encoders.frozen_prefix import FrozenPrefix, frozen_prefix
from transrec.item_encoders.fusions import FusionConfig
from transrec.item_encoders.fusions.tokens import TransformerSettings
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoder, MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.ranking_model import RankingModelConfig
from transrec.nn.readout import Modalities

WIDTH, PATCHES = 8, 16
MEMBERS = {member.model_fields["name"].default: member for member in config_classes(FusionConfig)}
READERS = [name for name, member in MEMBERS.items() if issubclass(member, TransformerSettings)]
each = pytest.mark.parametrize("fusion", READERS)
Build = Callable[..., MultimodalEncoder]


@pytest.fixture
def values(tiny_bert: Any, tiny_vit: Any) -> dict[str, Any]:
    folders = {"text": tiny_bert, "image": tiny_vit}
    return {name: {"backbone": str(path), "pooling": "mean", "dropout": 0.0} for name, path in folders.items()}


@pytest.fixture
def build(values: dict[str, Any]) -> Build:
    """Makes the same encoder each time it is called."""

    def build(fusion: str = "fq_former", granularity: str = "tokens", **changes: Any) -> MultimodalEncoder:
        torch.manual_seed(0)
        settings = {"name": fusion, "granularity": granularity, "dropout": 0.0}
        config = validate(MultimodalEncoderConfig, values | {"fusion": settings} | changes)
        return config.build(WIDTH, num_items=9).eval()

    return build


def texts() -> list[Chunk]:
    """Two chunks of texts of 5 and 3 word pieces, and of 2."""
    ids = torch.tensor([[2, 5, 9, 8, 3], [2, 8, 3, 0, 0]]), torch.tensor([[2, 3]])
    return [{"input_ids": rows, "attention_mask": (rows > 0).long()} for rows in ids]


def images() -> list[Chunk]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return [{"pixel_values": pixels[:1]}, {"pixel_values": pixels[1:]}]


def modality(rows: list[int], chunks: list[Chunk]) -> ModalityContent:
    blank = {name: tensor[:1] for name, tensor in chunks[0].items()}
    return ModalityContent(torch.tensor(rows, dtype=torch.int64), chunks if rows else [], blank, max(1, len(chunks)))


def content(text: tuple[int, ...] = (3, 0, 1), image: tuple[int, ...] = (1, 4, 0)) -> ItemContent:
    """Five items: 0 and 1 have both, 3 a text, 4 an image, 2 nothing."""
    read = {"text": modality(list(text), texts()), "image": modality(list(image), images())}
    return ItemContent(torch.arange(1, 6), read)


def gradients(encoder: nn.Module, of: ItemContent) -> dict[str, Tensor]:
    encoder(of).square().sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def test_the_tokens_of_a_text_are_its_word_pieces_and_those_of_an_image_its_patches(build: Build) -> None:
    encoder = build()
    text, image = (tower.features(content()) for tower in (encoder.text, encoder.image))
    assert text.present().sum(1).tolist() == [3, 2, 0, 5, 0]
    assert image.present().sum(1).tolist() == [PATCHES, PATCHES, 0, 0, PATCHES]
    last = encoder.text.backbone(**texts()[0]).last_hidden_state
    torch.testing.assert_close(encoder.text.vectors(text)[3], encoder.text.projection(last[0]))
    torch.testing.assert_close(encoder.text.vectors(text)[0, :3], encoder.text.projection(last[1, :3]))
    patches = encoder.image.backbone(**encoder.image.inputs(images()[0])).last_hidden_state[0, 1:]
    torch.testing.assert_close(encoder.image.vectors(image)[1], encoder.image.projection(patches))
    assert not encoder.text.vectors(text)[[2, 4]].any()


def test_their_mean_is_what_pooling_gives(build: Build) -> None:
    tokens, pooled = build(), build(granularity="pooled")
    for name in ("text", "image"):
        mean, expected = (e.towers[name].features(content()).pooled() for e in (tokens, pooled))
        torch.testing.assert_close(mean, expected)


@each
def test_an_item_with_nothing_is_zero_and_all_others_are_not(build: Build, fusion: str) -> None:
    fused = build(fusion)(content())
    assert fused.shape == (5, WIDTH)
    assert fused.isfinite().all()
    assert fused.any(1).tolist() == [True, True, False, True, True]


def tokens_of(lengths: list[int], seed: int = 1) -> Modalities:
    """Four items; the last has nothing, the first everything."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(4, sum(lengths), WIDTH, generator=generator)
    present = torch.rand(4, sum(lengths), generator=generator) < 0.6
    present[0], present[3] = True, False
    return Modalities(["text", "image", "id"][: len(lengths)], vectors, present, {}, lengths)


@each
@pytest.mark.parametrize("lengths", [[1, 1], [4, 2], [7, 1], [0, 3], [2, 0], [3, 4, 1]])
def test_there_may_be_any_number_of_tokens(fusion: str, lengths: list[int]) -> None:
    fused = MEMBERS[fusion]().build(len(lengths), WIDTH).eval()(tokens_of(lengths))
    assert fused.shape == (4, WIDTH)
    assert fused.isfinite().all()
    assert fused[0].any()
    assert not fused[3].any()


@each
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_what_stands_at_masked_tokens_changes_no_bit(fusion: str, residual: bool, layers: int) -> None:
    settings = {"layers": layers} | ({"residual": residual} if fusion == "fq_former" else {})
    model, x = MEMBERS[fusion](**settings).build(2, WIDTH).eval(), tokens_of([5, 3])
    x = replace(x, present=x.present.index_fill(1, torch.tensor([4]), False))
    other = replace(x, vectors=torch.where(x.present.unsqueeze(-1), x.vectors, 7.0))
    assert torch.equal(model(other), model(x))


@each
def test_the_length_of_the_padding_does_not_matter(build: Build, fusion: str) -> None:
    """The shortest text alone, and in a batch with longer ones."""
    encoder = build(fusion)
    alone = ItemContent(torch.tensor([2]), {"text": modality([0], texts()[1:]), "image": modality([0], images()[:1])})
    torch.testing.assert_close(encoder(alone)[0], encoder(content())[1])


@each
def test_one_token_of_each_modality_is_what_pooling_gives_bit_for_bit(
    build: Build, values: dict[str, Any], tmp_path: Any, fusion: str
) -> None:
    vision_model("vit", image_size=4).save_pretrained(tmp_path)
    image = values["image"] | {"backbone": str(tmp_path)}
    words = {"input_ids": torch.tensor([[5], [8]]), "attention_mask": torch.ones(2, 1, dtype=torch.int64)}
    pixels = {"pixel_values": images()[1]["pixel_values"][..., :4, :4].contiguous()}
    small = ItemContent(torch.arange(1, 5), {"text": modality([0, 1], [words]), "image": modality([1, 2], [pixels])})
    pooled, tokens = (build(fusion, kind, image=image, id={}) for kind in ("pooled", "tokens"))
    assert torch.equal(tokens(small), pooled(small))
    expected, found = gradients(pooled, small), gradients(tokens, small)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@each
@pytest.mark.parametrize(("text", "image"), [((), ()), ((), (1, 4, 0)), ((3, 0, 1), ()), ((3, 0, 1), (1, 4, 0))])
def test_every_weight_has_a_gradient_whatever_is_missing(
    build: Build, fusion: str, text: tuple[int, ...], image: tuple[int, ...]
) -> None:
    encoder = build(fusion)
    found = gradients(encoder, content(text, image).with_passes([2, 2]))
    assert found.keys() == dict(encoder.named_parameters()).keys()
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_surplus_passes_change_no_bit(build: Build) -> None:
    encoder, longer = build(), content().with_passes([4, 3])
    assert torch.equal(encoder(longer), encoder(content()))
    assert torch.equal(build()(longer), encoder(content()))
    assert not encoder(content((), ()).with_passes([3, 2])).any()


def test_surplus_passes_run_backward_too(build: Build) -> None:
    encoder, calls = build(), []
    encoder.text.backbone.encoder.layer[1].register_full_backward_hook(lambda *_: calls.append("text"))
    encoder.image.backbone.layers[0].register_full_backward_hook(lambda *_: calls.append("image"))
    for text, image in ((3, 0, 1), (1, 4, 0)), ((), ()):
        calls.clear()
        gradients(encoder, content(text, image).with_passes([4, 3]))
        assert (calls.count("text"), calls.count("image")) == (4, 3)


def test_how_items_are_cut_into_chunks_does_not_matter(build: Build) -> None:
    one, (first, second) = build(), texts()
    whole = content()
    parts = [{name: rows[i : i + 1] for name, rows in first.items()} for i in (0, 1)]
    cut = replace(whole, modalities=whole.modalities | {"text": modality([1, 0, 3], [second, parts[1], parts[0]])})
    torch.testing.assert_close(one(cut), one(whole))


@pytest.mark.parametrize("passes", [False, True])
def test_gradient_checkpointing_changes_no_gradient(build: Build, passes: bool) -> None:
    plain, recomputing = build().train(), build().train()
    recomputing.enable_gradient_checkpointing(passes)
    torch.testing.assert_close(gradients(recomputing, content()), gradients(plain, content()))


def test_projections_queries_and_fusion_learn_and_frozen_backbones_do_not(build: Build) -> None:
    encoder = build()
    FrozenBackboneConfig().apply(Items(encoder))
    found = gradients(encoder, content())
    assert not any(".backbone." in name for name in found)
    learn = {"text.projection.weight", "image.projection.weight", "fusion.queries", "fusion.attentions.0.query.weight"}
    assert learn <= {name for name, gradient in found.items() if gradient.any()}


SMALL = {"towers": ["item"], "bottleneck": {"item": 8}}
METHODS = {
    "frozen": (FrozenBackboneConfig(), FrozenPrefix(None)),
    "k_adapter": (KAdapterConfig(**SMALL, heads={"item": 2}, dropout=0), FrozenPrefix(None)),  # type: ignore[arg-type]
    "side_network": (SideNetworkConfig(), FrozenPrefix(None)),
    "top": (HoulsbyConfig(towers=["item"], layers=[1]), FrozenPrefix(1)),
}


@pytest.mark.parametrize("method", METHODS)
def test_kept_states_give_what_whole_passes_give(build: Build, method: str) -> None:
    config, expected = METHODS[method]
    whole, behind = build(), build()
    for encoder in (whole, behind):
        torch.manual_seed(1)
        config.apply(Items(encoder))
    kept = {}
    for name, tower in behind.towers.items():
        prefix = frozen_prefix(tower)
        assert prefix == expected, "all positions are kept"
        own = content().modalities[name]
        chunks = [{key: value for key, value in chunk.items() if key == "attention_mask"} for chunk in own.chunks]
        chunks = [{"prefix": prefix.compute(tower, raw)} | chunk for raw, chunk in zip(own.chunks, chunks, strict=True)]
        kept[name] = replace(own, chunks=chunks)
        tower.frozen_prefix = prefix
    cached = replace(content(), modalities=kept)
    torch.testing.assert_close(behind(cached), whole(content()), rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients(behind, cached), gradients(whole, content()), rtol=1e-5, atol=1e-6)


def test_adapters_that_read_every_layer_start_at_the_frozen_function(build: Build) -> None:
    """A K-Adapter combines the states of each token by itself."""
    encoder = build()
    plain = encoder(content())
    KAdapterConfig(**SMALL, heads={"item": 2}, dropout=0).apply(Items(encoder))  # type: ignore[arg-type]
    torch.testing.assert_close(encoder(content()), plain)


def test_a_network_between_modalities_reads_the_mean_of_the_tokens(values: dict[str, Any], tmp_path: Any) -> None:
    vision_model("vit", hidden_size=32).save_pretrained(tmp_path)  # as wide as the text
    read = []
    for granularity in ("tokens", "pooled"):
        torch.manual_seed(0)
        fusion = {"name": "fq_former", "granularity": granularity}
        image = values["image"] | {"backbone": str(tmp_path)}
        config = validate(MultimodalEncoderConfig, values | {"image": image, "fusion": fusion})
        encoder = config.build(WIDTH, num_items=9).eval()
        SideNetworkConfig(inter_modal=True, init_std=0.5).apply(Items(encoder))
        seen: list[Modalities] = []
        encoder.fusion.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        assert encoder(content()).isfinite().all()
        read.append(seen[0])
    for name in ("text", "image"):
        torch.testing.assert_close(*(x.pooled[name][-1] for x in read))
        torch.testing.assert_close(*(x.has(name) for x in read))


def test_the_host_waits_for_nothing(build: Build) -> None:
    class Step(nn.Module):
        def __init__(self, encoder: MultimodalEncoder) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, batch: ItemContent) -> dict[str, Tensor]:
            return {"loss": self.encoder(batch).square().sum()}

    for fusion in READERS:
        step_without_waiting(Step(build(fusion)), content())


@pytest.mark.parametrize("fusion", [name for name in MEMBERS if name not in READERS])
def test_other_fusions_read_one_vector(values: dict[str, Any], fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key `fusion\.granularity`"):
        validate(MultimodalEncoderConfig, values | {"fusion": {"name": fusion, "granularity": "tokens"}})


def test_pooled_is_the_default(tiny_bert: Any, tiny_vit: Any) -> None:
    assert {MEMBERS[name]().granularity for name in READERS} == {"pooled"}  # type: ignore[attr-defined]
    config = MultimodalEncoderConfig(
        text=TextEncoderConfig(backbone=str(tiny_bert)), image=ImageEncoderConfig(backbone=str(tiny_vit))
    )
    assert not config.reads_tokens


@pytest.mark.parametrize("pooling", ["cls", "head"])
def test_the_tokens_are_those_that_are_averaged(values: dict[str, Any], pooling: str) -> None:
    changed = values | {"text": values["text"] | {"pooling": pooling}, "fusion": {"name": "q_former"}}
    assert validate(MultimodalEncoderConfig, changed)
    changed["fusion"] |= {"granularity": "tokens"}
    with pytest.raises(ConfigError, match=r"set text\.pooling to mean"):
        validate(MultimodalEncoderConfig, changed)


def test_principal_components_are_those_of_pooled_features(values: dict[str, Any]) -> None:
    fusion = {"name": "fq_former", "granularity": "tokens"}
    encoder = {"name": "multimodal"} | values | {"fusion": fusion}
    asked = {"name": "ranking_model", "item_encoder": encoder, "principal_components": True}
    with pytest.raises(ConfigError, match="principal_components needs one vector of each modality"):
        validate(RankingModelConfig, asked)
    fusion["granularity"] = "pooled"
    assert validate(RankingModelConfig, asked)


def test_the_similarity_of_a_ranking_model_reads_the_mean(values: dict[str, Any]) -> None:
    found = []
    for granularity in ("tokens", "pooled"):
        encoder = {"name": "multimodal"} | values | {"fusion": {"name": "fq_former", "granularity": granularity}}
        asked = {"name": "ranking_model", "width": WIDTH, "item_encoder": encoder, "similarity": True}
        torch.manual_seed(0)
        found.append(validate(RankingModelConfig, asked).build(9).eval().encode_items(content())[:, WIDTH:])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_an_id_is_one_token(build: Build) -> None:
    encoder = build(id=IdEmbeddingConfig())
    seen: list[Modalities] = []
    encoder.fusion.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder(content())
    assert list(seen[0].lengths) == [5, PATCHES, 1]
    assert seen[0].present.sum(1).tolist() == [3 + PATCHES + 1, 2 + PATCHES + 1, 1, 5 + 1, PATCHES + 1]


def test_a_text_alone_has_one_vector(tiny_bert: Any) -> None:
    encoder = TextEncoderConfig(backbone=str(tiny_bert)).build(WIDTH, 9)
    assert encoder(of_text(torch.arange(1, 3), texts()[:1])).shape == (2, WIDTH)
