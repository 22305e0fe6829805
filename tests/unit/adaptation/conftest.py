import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import SIDE, VOCABULARY, tiny_config
from torch import Tensor

from transrec.data.batch import ItemContent, ModalityContent
from transrec.item_encoders import ItemEncoderConfig
from transrec.item_encoders.families import FAMILIES
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.user_encoders.sasrec import SASRecConfig

L = 5
IMAGES = sorted(name for name, family in FAMILIES.items() if family.modality == "image")


@pytest.fixture(scope="session")
def backbones_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny configuration of every family; weights are drawn at random."""
    folder = tmp_path_factory.mktemp("backbones")
    for family in FAMILIES:
        tiny_config(family).save_pretrained(folder / family)
        prepared = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": SIDE, "width": SIDE}}
        (folder / family / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


@pytest.fixture
def build(backbones_folder: Path) -> Callable[..., SequentialRecommender]:
    """Makes the same small model each time it is called; its item encoder is of a family, or reads several things."""

    def of_family(name: str, dropout: float) -> dict[str, Any]:
        pooling = "mean" if FAMILIES[name].class_token is None else "cls"
        return {"backbone": str(backbones_folder / name), "pretrained": False, "dropout": dropout, "pooling": pooling}

    def text(family: str, dropout: float) -> TextEncoderConfig:
        return TextEncoderConfig(**of_family(family, dropout))

    def image(family: str, dropout: float) -> ImageEncoderConfig:
        return ImageEncoderConfig(**of_family(family, dropout))

    def item_encoder_of(name: str, dropout: float) -> ItemEncoderConfig:
        if name == "id_embedding":
            return IdEmbeddingConfig()
        if name == "multimodal":
            return MultimodalEncoderConfig(text=text("bert", dropout), image=image("vit", dropout))
        return image(name, dropout) if name in IMAGES else text(name, dropout)

    def build(item_encoder: str = "bert", dropout: float = 0.0) -> SequentialRecommender:
        torch.manual_seed(0)
        return SequentialRecommenderConfig(
            width=16,
            max_length=L,
            item_encoder=item_encoder_of(item_encoder, dropout),
            user_encoder=SASRecConfig(dropout=dropout),
            objective=NextItemConfig(),
        ).build(num_items=9)

    return build


def content_for(model: SequentialRecommender) -> ItemContent:
    """Six items: texts of seven tokens, images, or both."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (6, 7), generator=generator)
    pixels = torch.randint(0, 256, (6, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    chunks = {"text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "image": {"pixel_values": pixels}}
    read = {
        name: ModalityContent(torch.arange(6), [chunks[name]], chunks[name], 1) for name in model.item_encoder.towers
    }
    return ItemContent(torch.arange(1, 7), read)


@pytest.fixture
def run() -> Callable[[SequentialRecommender], tuple[Tensor, Tensor]]:
    """Item and user vectors of a fixed input."""
    mask = torch.arange(L) >= torch.tensor([[0], [3]])

    def run(model: SequentialRecommender) -> tuple[Tensor, Tensor]:
        items = model.encode_items(content_for(model))
        return items, model.encode_users(items[torch.tensor([[0, 1, 2, 3, 4], [5, 5, 5, 0, 2]])], mask)

    return run
