from pathlib import Path

import pytest
from pictured import vision_model
from transformers import BertConfig


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny BERT, and in it a folder `vision` of a tiny ViT; weights are drawn at random."""
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ).save_pretrained(folder)
    vision_model("vit").save_pretrained(folder / "vision")
    return folder
