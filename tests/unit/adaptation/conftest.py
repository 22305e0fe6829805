from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contents import of_text
from torch import Tensor
from transformers import BertConfig

from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.user_encoders.sasrec import SASRecConfig

L = 5


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny BERT; its weights are drawn at random."""
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def build(bert_folder: Path) -> Callable[..., SequentialRecommender]:
    """Makes the same small model each time it is called."""

    def build(item_encoder: str = "text", dropout: float = 0.0) -> SequentialRecommender:
        torch.manual_seed(0)
        text = TextEncoderConfig(backbone=str(bert_folder), pretrained=False, dropout=dropout)
        return SequentialRecommenderConfig(
            width=16,
            max_length=L,
            item_encoder=text if item_encoder == "text" else IdEmbeddingConfig(),
            user_encoder=SASRecConfig(dropout=dropout),
            objective=NextItemConfig(),
        ).build(num_items=9)

    return build


@pytest.fixture
def run() -> Callable[[SequentialRecommender], tuple[Tensor, Tensor]]:
    """Item and user vectors of a fixed input."""
    ids = torch.randint(1, 60, (6, 7), generator=torch.Generator().manual_seed(1))
    content = of_text(torch.arange(1, 7), [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    mask = torch.arange(L) >= torch.tensor([[0], [3]])

    def run(model: SequentialRecommender) -> tuple[Tensor, Tensor]:
        items = model.encode_items(content)
        return items, model.encode_users(items[torch.tensor([[0, 1, 2, 3, 4], [5, 5, 5, 0, 2]])], mask)

    return run
