"""Models of text and image trained together, CLIP and SigLIP: each of their towers is a backbone.

Their checkpoints hold both towers; the modality that is asked for chooses one. It is read as it was trained to be:

CLIP, text      the state of the last token, the end of the text, which attention from left to right made of all
CLIP, image     the class token; the norm, which CLIP puts on this one alone, is put on the patches too
SigLIP, text    the state of the last position, through a linear layer; texts are padded to the full length
SigLIP, image   a learned query attends to all patches

The class token is `pooling: cls`, also where it is the last one; the others are `pooling: head`. The projections into
the space that both towers share are not read.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask

from transrec.item_encoders.families.family import Context, Family, Head, bidirectional, stack
from transrec.item_encoders.families.image import embed_image
from transrec.item_encoders.families.text import embed_text

# Fields with the towers' configurations, by the `model_type` of those that hold both.
_FIELDS = {"text": "text_config", "image": "vision_config"}
TWO_TOWERS = {"clip": _FIELDS, "siglip": _FIELDS}


def _causal(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    attendable = create_causal_mask(
        config=backbone.config, inputs_embeds=states, attention_mask=mask, past_key_values=None
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
        tokenizer="PreTrainedTokenizerFast",  # its own class wants sentencepiece; checkpoints have a tokenizer.json
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
