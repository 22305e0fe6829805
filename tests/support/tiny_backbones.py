"""A tiny random model of every family of backbones, for texts of up to 60 words and images of 16 pixels."""

from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from transrec.item_encoders.families import FAMILIES, TWO_TOWERS

SIDE, VOCABULARY = 16, 60
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_TEXT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_IMAGE = {"image_size": SIDE, "patch_size": 8}
_OWN: dict[str, dict[str, Any]] = {
    "distilbert": {"hidden_dim": 64},
    "modernbert": {"local_attention": 4},  # texts are longer
    "siglip_text_model": {"max_position_embeddings": 32, "projection_size": 24},
    "dinov2": {"mlp_ratio": 2},
    "dinov3_vit": {"num_register_tokens": 2},
}
_SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "mlp_ratio": 2}


def tiny_config(model_type: str, **changes: Any) -> PretrainedConfig:
    modality = _TEXT if FAMILIES[model_type].modality == "text" else _IMAGE
    if model_type == "swin":
        return AutoConfig.for_model(model_type, **_SWIN | modality | {"patch_size": 4} | changes)
    return AutoConfig.for_model(model_type, **_SHAPE | modality | _OWN.get(model_type, {}) | changes)


def tiny_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """As transformers builds it, in evaluation mode; the same at every call."""
    kind = FAMILIES[model_type]
    pooler = {"add_pooling_layer": False} if kind.has_pooler else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind.model)(tiny_config(model_type, **changes), **pooler).eval()


def tiny_two_towers(model_type: str) -> PreTrainedModel:
    """A model of text and image, with weights of which none are the same in both towers."""
    towers = {"text_config": f"{model_type}_text_model", "vision_config": f"{model_type}_vision_model"}
    assert set(TWO_TOWERS[model_type].values()) == set(towers)
    configs = {field: tiny_config(tower).to_dict() for field, tower in towers.items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **configs)
        return transformers.AutoModel.from_config(config).eval()


def tiny_inputs(model_type: str, items: int = 2) -> dict[str, torch.Tensor]:
    """Texts of different lengths that end with the end-of-text token, or images."""
    generator = torch.Generator().manual_seed(1)
    kind = FAMILIES[model_type]
    if kind.modality == "image":
        return {"pixel_values": torch.randn(items, 3, SIDE, SIDE, generator=generator)}
    longest = 32 if kind.fills_positions else 9
    tokens = torch.randint(5, VOCABULARY, (items, longest), generator=generator)
    lengths = torch.full((items, 1), longest) if kind.fills_positions else longest - torch.arange(items)[:, None] * 2
    tokens[torch.arange(items), lengths[:, 0] - 1] = 3
    return {"input_ids": tokens, "attention_mask": (torch.arange(longest) < lengths).long()}
