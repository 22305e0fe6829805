"""Two-tower models of text and image, CLIP and SigLIP: each tower is a backbone.

A checkpoint holds both towers; the modality selects one. Each tower is pooled as it was trained:

CLIP, text      the state of the last token, the end of the text, which attends causally to all others
CLIP, image     the class token; the norm that CLIP applies to this token only is also applied to the patches
SigLIP, text    the state of the last position, through a linear layer; texts are padded to full length
SigLIP, image   a learned query attends to all patches

The class token is `pooling: cls`, even where it is the last token; the others are `pooling: head`. The projections
into the space shared by both towers are not used.
"""

from dataclasses import replace
from typing import Any

import transformers
from torch import Tensor

from transrec.item_encoders.families.family import Context, Family, Head, bidirectional, stack
from transrec.item_encoders.families.image import embed_image
from transrec.item_encoders.families.text import embed_text

# Configuration fields of the towers, by the `model_type` of the two-tower model.
_FIELDS = {"text": "text_config", "image": "vision_config"}
TWO_TOWERS = {"clip": _FIELDS, "siglip": _FIELDS}


def _causal(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    attendable = transformers.masking_utils.create_causal_mask(
        config=backbone.config,
        inputs_embeds=states,
        attention_mask=mask,
        past_key_values=None,
        allow_is_causal_skip=mask is None,  # see `bidirectional`
    )
    return lambda layer: {"attention_mask": attendable, "is_causal": True}


def _last_position(backbone: Any, states: Tensor) -> Tensor:
    tensor: Tensor = backbone.head(states[:, -1])
    return tensor


def _attention(backbone: Any, states: Tensor) -> Tensor:
    tensor: Tensor = backbone.head(states)
    return tensor


_CLIP_TEXT = Family(
    modality="text",
    model="CLIPTextModel",
    sites={
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_input": "self_attn",
        "attention_output": "self_attn.out_proj",
        "ffn_input": "mlp",
        "ffn_hidden": "mlp.activation_fn",
        "ffn_output": "mlp.fc2",
    },
    layers=stack("encoder.layers"),
    dropout=("attention_dropout",),
    embed=embed_text,
    context=_causal,
    norm="final_layer_norm",
    class_token="last",
)
_CLIP_VISION = replace(
    _CLIP_TEXT,
    modality="image",
    model="CLIPVisionModel",
    embed=embed_image,
    stem=("embeddings", "pre_layrnorm"),
    context=bidirectional,
    norm="post_layernorm",
    class_token="first",
)

TOWER_FAMILIES = {
    "clip_text_model": _CLIP_TEXT,
    "clip_vision_model": _CLIP_VISION,
    "siglip_text_model": replace(
        _CLIP_TEXT,
        model="SiglipTextModel",
        context=bidirectional,
        class_token=None,
        head=Head("head", _last_position, width="projection_size"),
        tokenizer="PreTrainedTokenizerFast",  # its own class needs sentencepiece; checkpoints have a tokenizer.json
        fills_positions=True,
    ),
    "siglip_vision_model": replace(
        _CLIP_VISION,
        model="SiglipVisionModel",
        stem=("embeddings",),
        class_token=None,
        head=Head("head", _attention),
        drops_nothing=("head.attention",),
    ),
}
