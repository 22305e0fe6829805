"""What each method trains on BERT-base and SASRec: the counts of the reference, measured on its own classes."""

import json

import pytest
import torch
from pydantic import TypeAdapter
from transformers import BertConfig, ViTConfig

from transrec.adaptation import AdaptationConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.user_encoders.sasrec import SASRecConfig

POOLER_BIAS = 768  # of the reference, which never gets a gradient; ours is not built
LAYER_NORMS = 39_040
BIASES = 18_688
METHODS = {  # trained parameters, and those with all LayerNorms: two columns of the reference's table
    "houlsby": ({"name": "houlsby"}, 2_387_776, 2_426_816),
    "houlsby, parallel": ({"name": "houlsby", "mode": "parallel"}, 2_387_776, 2_426_816),
    "houlsby, parallel, released": (
        {"name": "houlsby", "mode": "parallel", "variant": "released"},
        2_387_776,
        2_426_816,
    ),
    "pfeiffer_ver2": ({"name": "pfeiffer", "sites": ["attention_output"]}, 1_193_888, 1_232_928),
    "pfeiffer v1": ({"name": "pfeiffer", "variant": "released"}, 1_212_576, 1_251_616),
    "k_adapter 192": ({"name": "k_adapter"}, 3_573_920, 3_612_960),
    "k_adapter 192, released": ({"name": "k_adapter", "variant": "released"}, 3_573_920, 3_612_960),
    "k_adapter 384": ({"name": "k_adapter", "bottleneck": {"item": 384}}, 9_479_456, 9_518_496),
    "lora, released": ({"name": "lora", "variant": "released"}, 463_104, 502_144),
    "compacter": ({"name": "compacter"}, 60_928, 99_968),
    "compacter, released": ({"name": "compacter", "variant": "released"}, 60_928, 99_968),
    "prompt": ({"name": "prompt"}, 23_040, 62_080),
    "prompt, released": ({"name": "prompt", "variant": "released"}, 23_040, 62_080),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Configurations of BERT-base and ViT-base."""
    folders = {"bert": BertConfig(), "vit": ViTConfig()}
    for name, config in folders.items():
        folder = tmp_path_factory.mktemp(name)
        config.save_pretrained(folder)
        prepared = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
        (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
        folders[name] = str(folder)
    return folders


def trained(item_encoder, adaptation):
    """Names and sizes of what trains in TransRec over an item encoder, without memory for its weights."""
    config = SequentialRecommenderConfig(
        item_encoder=item_encoder, user_encoder=SASRecConfig(), objective=NextItemConfig()
    )
    with torch.device("meta"):
        model = config.build(num_items=1)
        TypeAdapter(AdaptationConfig).validate_python(adaptation).apply(model)
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def bert_base(folders):
    encoder = TextEncoderConfig(backbone=folders["bert"], pretrained=False)
    return lambda adaptation: trained(encoder, adaptation)


@pytest.mark.parametrize("key", METHODS)
def test_as_many_as_in_the_reference(bert_base, key):
    adaptation, alone, with_layer_norms = METHODS[key]
    assert sum(bert_base(adaptation).values()) == alone
    assert sum(bert_base(adaptation | {"also_train": ["layer_norm"]}).values()) == with_layer_norms


def test_of_houlsby_by_tower(bert_base):
    counts = bert_base({"name": "houlsby"})
    assert sum(count for name, count in counts.items() if name.startswith("item_encoder.")) == 2_379_264
    assert sum(count for name, count in counts.items() if name.startswith("user_encoder.")) == 8_512


# Into one bottleneck for the state entering each second of 12 layers, one for the last, one that corrects; six gates.
BOTTLENECK = (768 * 64 + 64) + (64 * 768 + 768)
SIDE_NETWORK = (6 + 1) * BOTTLENECK + BOTTLENECK + 6


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        ({"name": "full"}, 109_041_728),
        ({"name": "head_only"}, 49_216 + 100_864 - 640),  # projection and user encoder, but for its LayerNorms
        ({"name": "layer_norm"}, LAYER_NORMS),
        ({"name": "bitfit"}, 103_936 - POOLER_BIAS),
        ({"name": "pfeiffer"}, 1_193_888),
        ({"name": "lora"}, 463_104 - BIASES),
        ({"name": "ia3"}, 12 * (2 * 768 + 3072) + 2 * (2 * 64 + 256)),
        ({"name": "side_network"}, SIDE_NETWORK),
        ([{"name": "lora"}, {"name": "layer_norm"}], 463_104 - BIASES + LAYER_NORMS),
    ],
)
def test_of_the_others(bert_base, adaptation, expected):
    assert sum(bert_base(adaptation).values()) == expected


def test_of_side_networks_within_and_between_modalities(folders):
    """One within each tower, and between them seven bottlenecks, seven gates and a correction of the vectors' width."""
    parts = {
        "text": TextEncoderConfig(backbone=folders["bert"], pretrained=False),
        "image": ImageEncoderConfig(backbone=folders["vit"], pretrained=False),
    }
    counts = trained(MultimodalEncoderConfig(**parts), {"name": "side_network", "inter_modal": True})
    between = {name: count for name, count in counts.items() if name.startswith("item_encoder.fusion.")}
    assert sum(between.values()) == 7 * BOTTLENECK + (768 * 64 + 64) + (64 * 64 + 64) + 7
    assert sum(counts.values()) == 2 * SIDE_NETWORK + sum(between.values()) == 2_333_523
