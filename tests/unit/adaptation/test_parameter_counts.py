"""What each method trains on BERT-base and SASRec: the counts of the reference, measured on its own classes."""

import pytest
import torch
from pydantic import TypeAdapter
from transformers import BertConfig

from transrec.adaptation import AdaptationConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.user_encoders.sasrec import SASRecConfig

POOLER_BIAS = 768  # of the reference, which never gets a gradient; ours is not built
LAYER_NORMS = 39_040
BIASES = 18_688
METHODS = {
    "houlsby": ({"name": "houlsby"}, 2_387_776),
    "houlsby, parallel": ({"name": "houlsby", "mode": "parallel"}, 2_387_776),
    "pfeiffer_ver2": ({"name": "pfeiffer", "sites": ["attention_output"]}, 1_193_888),
    "pfeiffer": ({"name": "pfeiffer"}, 1_193_888),
    "pfeiffer v1": ({"name": "pfeiffer", "variant": "released"}, 1_212_576),
    "k_adapter 192": ({"name": "k_adapter"}, 3_573_920),
    "k_adapter 384": ({"name": "k_adapter", "bottleneck": {"item": 384}}, 9_479_456),
    "lora, released": ({"name": "lora", "variant": "released"}, 463_104),
    "lora": ({"name": "lora"}, 463_104 - BIASES),
    "compacter": ({"name": "compacter"}, 60_928),
    "prompt": ({"name": "prompt"}, 23_040),
}


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory):
    """TransRec on BERT-base, without memory for its weights."""
    folder = tmp_path_factory.mktemp("bert_base")
    BertConfig().save_pretrained(folder)
    config = SequentialRecommenderConfig(
        item_encoder=TextEncoderConfig(backbone=str(folder), pretrained=False),
        user_encoder=SASRecConfig(),
        objective=NextItemConfig(),
    )

    def trained(adaptation):
        with torch.device("meta"):
            model = config.build(num_items=1)
            TypeAdapter(AdaptationConfig).validate_python(adaptation).apply(model)
        return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}

    return trained


@pytest.mark.parametrize("key", METHODS)
def test_as_many_as_in_the_reference(bert_base, key):
    adaptation, expected = METHODS[key]
    assert sum(bert_base(adaptation).values()) == expected
    assert sum(bert_base(adaptation | {"also_train": ["layer_norm"]}).values()) == expected + LAYER_NORMS


def test_of_houlsby_by_tower(bert_base):
    trained = bert_base({"name": "houlsby"})
    assert sum(count for name, count in trained.items() if name.startswith("item_encoder.")) == 2_379_264
    assert sum(count for name, count in trained.items() if name.startswith("user_encoder.")) == 8_512


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        ({"name": "full"}, 109_041_728),
        ({"name": "head_only"}, 49_216 + 100_864 - 640),  # projection and user encoder, but for its LayerNorms
        ({"name": "layer_norm"}, LAYER_NORMS),
        ({"name": "bitfit"}, 103_936 - POOLER_BIAS),
        ({"name": "ia3"}, 12 * (2 * 768 + 3072) + 2 * (2 * 64 + 256)),
        ({"name": "side_network"}, 8 * (2 * 768 * 64 + 64 + 768) + 6),
        ([{"name": "lora"}, {"name": "layer_norm"}], 463_104 - BIASES + LAYER_NORMS),
    ],
)
def test_of_the_others(bert_base, adaptation, expected):
    assert sum(bert_base(adaptation).values()) == expected
