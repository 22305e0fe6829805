from pathlib import Path

import pytest
from transformers import BertConfig


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny BERT; its weights are drawn at random."""
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ).save_pretrained(folder)
    return folder
