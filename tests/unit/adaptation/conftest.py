from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contents import of_text
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertConfig

from transrec.data.batch import ItemContent, ModalityContent
from transrec.item_encoders.backbone_encoder import BackboneEncoder
from transrec.item_encoders.backbones import FAMILIES
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.user_encoders.sasrec import SASRecConfig

L, SIDE = 5, 16
IMAGES = sorted(name for name, family in FAMILIES.items() if family.modality == "image")
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
OWN_SHAPES = {
    "vit_mae": SHAPE | {"mask_ratio": 0.0},
    "dinov2": SHAPE | {"mlp_ratio": 2},
    "swin": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "patch_size": 4, "mlp_ratio": 2},
}


@pytest.fixture(scope="session")
def text_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations of a tiny BERT and a tiny RoBERTa; their weights are drawn at random."""
    folder = tmp_path_factory.mktemp("text")
    BertConfig(vocab_size=60, **SHAPE).save_pretrained(folder / "bert")
    AutoConfig.for_model("roberta", vocab_size=60, pad_token_id=0, **SHAPE).save_pretrained(folder / "roberta")
    return folder


class Images(BackboneEncoder):
    """A tiny random backbone of a family of image models."""

    modality = "image"

    def __init__(self, model_type: str, dropout: float):
        size = {"patch_size": 8, "image_size": SIDE} | OWN_SHAPES.get(model_type, SHAPE)
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "drop_path_rate": 0.0}
        config = AutoConfig.for_model(model_type, **size, **rates)
        kind = FAMILIES[model_type]
        pooler = {"add_pooling_layer": False} if kind.has_pooler else {}
        backbone = AutoModel.from_config(config, **pooler)
        super().__init__(backbone.train(), "cls" if kind.has_class_token else "mean", 16)


@pytest.fixture
def build(text_folders: Path) -> Callable[..., SequentialRecommender]:
    """Makes the same small model each time it is called; its item encoder is of a family, or embeds ids."""

    def build(item_encoder: str = "bert", dropout: float = 0.0) -> SequentialRecommender:
        torch.manual_seed(0)
        text = TextEncoderConfig(backbone=str(text_folders / item_encoder), pretrained=False, dropout=dropout)
        model = SequentialRecommenderConfig(
            width=16,
            max_length=L,
            item_encoder=text if (text_folders / item_encoder).exists() else IdEmbeddingConfig(),
            user_encoder=SASRecConfig(dropout=dropout),
            objective=NextItemConfig(),
        ).build(num_items=9)
        if item_encoder in IMAGES:
            model.item_encoder = Images(item_encoder, dropout)
        return model

    return build


def content_for(model: SequentialRecommender) -> ItemContent:
    """Six items: texts of seven tokens, or images."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(model.item_encoder, Images):
        chunk = {"pixel_values": torch.randn(6, 3, SIDE, SIDE, generator=generator)}
        return ItemContent(torch.arange(1, 7), {"image": ModalityContent(torch.arange(6), [chunk], chunk, 1)})
    ids = torch.randint(1, 60, (6, 7), generator=generator)
    return of_text(torch.arange(1, 7), [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])


@pytest.fixture
def run() -> Callable[[SequentialRecommender], tuple[Tensor, Tensor]]:
    """Item and user vectors of a fixed input."""
    mask = torch.arange(L) >= torch.tensor([[0], [3]])

    def run(model: SequentialRecommender) -> tuple[Tensor, Tensor]:
        items = model.encode_items(content_for(model))
        return items, model.encode_users(items[torch.tensor([[0, 1, 2, 3, 4], [5, 5, 5, 0, 2]])], mask)

    return run
