"""Passes that start behind the frozen layers give what whole passes give."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contents import of_text
from items_only import Items

from transrec.adaptation import MethodConfig
from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.k_adapter import KAdapterConfig
from transrec.adaptation.prompt import PromptConfig
from transrec.adaptation.selective import BitFitConfig, FullConfig, HeadOnlyConfig
from transrec.adaptation.side_network import SideNetworkConfig
from transrec.data.batch import ItemContent, ModalityContent
from transrec.item_encoders.frozen_prefix import FrozenPrefix, frozen_prefix, why_not_exact
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.text import TextEncoder, TextEncoderConfig

LAYERS = 3  # of tiny_bert
KEPT: list[tuple[str, Any, FrozenPrefix]] = [
    ("head_only", HeadOnlyConfig(), FrozenPrefix(None, features=True)),
    ("side_network", SideNetworkConfig(), FrozenPrefix(None, features=True)),
    ("k_adapter", KAdapterConfig(towers=["item"], bottleneck={"item": 24}, dropout=0), FrozenPrefix(None)),  # type: ignore[arg-type]
    ("houlsby_top", HoulsbyConfig(towers=["item"], layers=[2]), FrozenPrefix(2)),
    ("houlsby_middle", HoulsbyConfig(towers=["item"], layers=[1]), FrozenPrefix(1)),
]

EVERYWHERE = [FullConfig(), HoulsbyConfig(towers=["item"]), PromptConfig(), BitFitConfig(towers=["item"])]


@pytest.fixture
def build(tiny_bert: Any) -> Callable[..., TextEncoder]:
    def build(method: MethodConfig, pooling: str = "mean", dropout: float = 0.0) -> TextEncoder:
        torch.manual_seed(0)
        config = TextEncoderConfig(backbone=str(tiny_bert), dropout=dropout, pooling=pooling)  # type: ignore[arg-type]
        model = Items(config.build(8, num_items=9))
        method.apply(model)
        return model.item_encoder  # type: ignore[return-value]

    return build


@pytest.fixture
def whole() -> ItemContent:
    ids = torch.tensor([[2, 5, 9, 8, 3], [2, 8, 3, 0, 0], [2, 9, 5, 3, 0]])
    return of_text(torch.tensor([4, 1, 6]), [{"input_ids": ids, "attention_mask": (ids > 0).long()}])


def behind(encoder: TextEncoder, whole: ItemContent) -> ItemContent:
    """The same content with the states behind the frozen layers in its place; the encoder then starts there."""
    prefix = frozen_prefix(encoder)
    assert prefix is not None
    text = whole.modalities["text"]
    kept = [
        {"prefix": prefix.compute(encoder, chunk)}
        | ({} if prefix.features else {"attention_mask": chunk["attention_mask"]})
        for chunk in text.chunks
    ]
    encoder.frozen_prefix = prefix
    return ItemContent(whole.items, {"text": ModalityContent(text.rows, kept, text.blank, text.passes)})


def learn(encoder: TextEncoder, content: ItemContent) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    vectors = encoder(content)
    vectors.square().sum().backward()
    return vectors.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("method", "expected"), [case[1:] for case in KEPT], ids=[case[0] for case in KEPT])
def test_ends_where_training_begins(build: Any, method: Any, expected: FrozenPrefix) -> None:
    assert frozen_prefix(build(method)) == expected


@pytest.mark.parametrize("method", EVERYWHERE, ids=lambda method: method.name)
def test_there_is_none_where_the_first_layers_train(build: Any, method: Any) -> None:
    assert frozen_prefix(build(method)) is None


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("method", [case[1] for case in KEPT], ids=[case[0] for case in KEPT])
def test_vectors_and_gradients_are_bit_equal(build: Any, whole: ItemContent, method: Any, pooling: str) -> None:
    plain, cached = build(method, pooling), build(method, pooling)
    content = behind(cached, whole)
    for parameter in cached.backbone.embeddings.parameters():
        parameter.data.zero_()  # nobody may look there any more
    (vectors, gradients), (kept, kept_gradients) = learn(plain, whole), learn(cached, content)
    assert torch.equal(kept, vectors)
    assert gradients
    assert gradients.keys() == kept_gradients.keys()
    assert all(torch.equal(gradients[name], kept_gradients[name]) for name in gradients)


def test_is_named_by_the_weights_below_and_by_no_others(build: Any) -> None:
    encoder = build(HoulsbyConfig(towers=["item"], layers=[2]))
    prefix = frozen_prefix(encoder)
    before = prefix.digest(encoder)
    with torch.no_grad():
        encoder.backbone.encoder.layer[2].output.dense.adapter.up.weight.add_(1)
        encoder.projection.weight.add_(1)
    assert prefix.digest(encoder) == before
    for name, parameter in encoder.named_parameters():
        if "embeddings" in name or "layer.0." in name or "layer.1." in name:
            kept = parameter.data.clone()
            parameter.data.view(-1)[-1] += 1e-3
            assert prefix.digest(encoder) != before, name
            parameter.data.copy_(kept)


def test_what_is_kept_says_so_in_its_name(build: Any) -> None:
    digests = {
        frozen_prefix(encoder).digest(encoder)
        for encoder in (
            build(HeadOnlyConfig(), "mean"),
            build(HeadOnlyConfig(), "cls"),
            build(SideNetworkConfig()),
            build(SideNetworkConfig(layers=[1])),
            build(HoulsbyConfig(towers=["item"], layers=[1])),
            build(HoulsbyConfig(towers=["item"], layers=[2])),
        )
    }
    assert len(digests) == 6


def test_is_named_by_how_the_backbone_computes(build: Any) -> None:
    encoder = build(HeadOnlyConfig())
    prefix = frozen_prefix(encoder)
    before = prefix.digest(encoder)
    encoder.backbone.config.num_attention_heads = 2
    assert prefix.digest(encoder) != before


def test_is_named_by_how_images_are_prepared(tiny_vit: Any) -> None:
    encoder = ImageEncoderConfig(backbone=str(tiny_vit), dropout=0).build(8, num_items=9)
    encoder.requires_grad_(False)
    before = frozen_prefix(encoder).digest(encoder)  # type: ignore[union-attr]
    encoder.preparation = "another mean"
    assert frozen_prefix(encoder).digest(encoder) != before  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [case[1] for case in KEPT], ids=[case[0] for case in KEPT])
def test_kept_states_are_as_precise_as_the_weights(build: Any, whole: ItemContent, method: Any, kept: Any) -> None:
    encoder = build(method)
    content = behind(encoder, whole)
    for chunk in content.modalities["text"].chunks:
        chunk["prefix"] = chunk["prefix"].to(kept)
    assert encoder(content).dtype == torch.float32


def test_the_released_k_adapter_reads_what_is_not_kept(build: Any) -> None:
    small = {"towers": ["item"], "bottleneck": {"item": 24}}
    assert why_not_exact(build(KAdapterConfig(**small))) is None
    assert "padding" in str(why_not_exact(build(KAdapterConfig(variant="released", **small))))


def test_dropout_in_the_frozen_layers_is_a_reason_not_to(build: Any) -> None:
    assert why_not_exact(build(HeadOnlyConfig())) is None
    assert "dropout" in str(why_not_exact(build(HeadOnlyConfig(), dropout=0.1)))
