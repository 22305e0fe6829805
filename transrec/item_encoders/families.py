"""Families of pretrained backbones: how Hugging Face names the parts of each, and how one of its layers is run.

The only file that knows these internals. A new backbone of a known modality is one entry in `FAMILIES`; a test pins
every path of the table against a randomly initialised model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from transrec.config import ConfigError

Inputs = Mapping[str, Tensor]  # input_ids and attention_mask (n, T), or pixel_values (n, 3, side, side)


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are made up; paths are relative to the backbone, those of sites to a layer.

    A backbone is run here as embeddings -> layers -> norm instead of by its own forward: a pass can then start at any
    layer and keep the states of any, and an adapter may lengthen the sequence. A test holds it equal to that forward.
    """

    modality: Literal["text", "image"]
    sites: dict[str, str]
    layers: Callable[[PretrainedConfig], list[str]]  # paths of the layers, first to last
    embed: Callable[[Any, Inputs], Tensor]
    run_layer: Callable[[Any, int, Tensor, Tensor | None], Tensor]
    norm: str | None = None  # after the last layer
    has_pooler: bool = True  # that its constructor can be told to leave out
    has_class_token: bool = True
    reserved_positions: int = 0  # position embeddings that no token uses


def _stack(path: str) -> Callable[[PretrainedConfig], list[str]]:
    return lambda config: [f"{path}.{layer}" for layer in range(config.num_hidden_layers)]


def _swin_layers(config: PretrainedConfig) -> list[str]:
    return [f"encoder.layers.{s}.blocks.{b}" for s, depth in enumerate(config.depths) for b in range(depth)]


def _embed_text(backbone: Any, inputs: Inputs) -> Tensor:
    return backbone.embeddings(input_ids=inputs["input_ids"])


def _embed_image(backbone: Any, inputs: Inputs) -> Tensor:
    pixels = inputs["pixel_values"]
    return backbone.embeddings(pixels, interpolate_pos_encoding=_other_size(backbone, pixels))


def _embed_mae(backbone: Any, inputs: Inputs) -> Tensor:
    """Without masking the patches stay in their order: it changes nothing but the rounding, which then repeats."""
    pixels, noise = inputs["pixel_values"], None
    if not backbone.config.mask_ratio:
        patches = (pixels.shape[-1] // backbone.config.patch_size) ** 2
        noise = torch.arange(patches, device=pixels.device, dtype=pixels.dtype).expand(len(pixels), -1)
    states, *_ = backbone.embeddings(pixels, noise, _other_size(backbone, pixels))
    return states


def _embed_dinov2(backbone: Any, inputs: Inputs) -> Tensor:
    return backbone.embeddings(inputs["pixel_values"])


def _embed_swin(backbone: Any, inputs: Inputs) -> Tensor:
    states, _ = backbone.embeddings(inputs["pixel_values"])
    return states


def _other_size(backbone: Any, pixels: Tensor) -> bool:
    return tuple(pixels.shape[-2:]) != (backbone.config.image_size,) * 2


def _run_layer(backbone: Any, layer: int, states: Tensor, mask: Tensor | None) -> Tensor:
    path = family(backbone.config.model_type).layers(backbone.config)[layer]
    return backbone.get_submodule(path)(states, mask)


def _run_swin_layer(backbone: Any, layer: int, states: Tensor, mask: Tensor | None) -> Tensor:
    *_, stage_number, _, block = _swin_layers(backbone.config)[layer].split(".")
    stage, side = backbone.encoder.layers[int(stage_number)], math.isqrt(states.shape[1])
    states, _ = stage.blocks[int(block)](states, (side, side))
    if stage.downsample is not None and int(block) == len(stage.blocks) - 1:
        states = stage.downsample(states, (side, side))
    return states


_BERT = Family(
    modality="text",
    sites={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_input": "attention",
        "attention_output": "attention.output.dense",
        "ffn_input": "intermediate",
        "ffn_hidden": "intermediate",
        "ffn_output": "output.dense",
        "ffn_norm": "output.LayerNorm",
    },
    layers=_stack("encoder.layer"),
    embed=_embed_text,
    run_layer=_run_layer,
)
_VIT_SITES = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attention_input": "attention",
    "attention_output": "attention.o_proj",
    "ffn_input": "mlp",
    "ffn_hidden": "mlp.activation_fn",
    "ffn_output": "mlp.fc2",
}
_VIT = Family(
    modality="image",
    sites=_VIT_SITES,
    layers=_stack("layers"),
    embed=_embed_image,
    run_layer=_run_layer,
    norm="layernorm",
)

FAMILIES = {
    "bert": _BERT,
    # Positions start after the padding index, so two of RoBERTa's 514 rows are never a token's.
    "roberta": replace(_BERT, reserved_positions=2),
    "vit": _VIT,
    "vit_mae": replace(_VIT, embed=_embed_mae, has_pooler=False),
    "dinov2": replace(_VIT, layers=_stack("encoder.layer"), embed=_embed_dinov2, has_pooler=False),
    "swin": replace(_VIT, layers=_swin_layers, embed=_embed_swin, run_layer=_run_swin_layer, has_class_token=False),
}


def family(model_type: str) -> Family:
    """
    Raises:
        ConfigError: a model type that is not in the table.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"`backbone`: model type {model_type!r} is not supported; known: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def max_tokens(backbone: PreTrainedModel) -> int:
    """The longest input `backbone` has positions for."""
    return backbone.config.max_position_embeddings - family(backbone.config.model_type).reserved_positions


def hidden_size(backbone: PreTrainedModel) -> int:
    """The width of the last hidden states."""
    return backbone.config.hidden_size


def state_widths(backbone: PreTrainedModel) -> list[int]:
    """Widths of the states that `run_layers` can keep: the input of each layer, then what the last one gives."""
    config = backbone.config
    if config.model_type != "swin":
        return [config.hidden_size] * (num_layers(backbone) + 1)
    widths = [config.embed_dim * 2**stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
    return [*widths, config.hidden_size]


def has_class_token(backbone: PreTrainedModel) -> bool:
    """Does the first position stand for the whole input?"""
    return family(backbone.config.model_type).has_class_token


def site_paths(backbone: PreTrainedModel) -> dict[str, list[str]]:
    """Paths of the sites, relative to the backbone: one a layer, or one for all of them."""
    kind = family(backbone.config.model_type)
    layers = kind.layers(backbone.config)
    paths = {site: [f"{layer}.{path}" for layer in layers] for site, path in kind.sites.items()}
    return paths | ({"embeddings": ["embeddings"]} if kind.has_class_token else {})


def num_layers(backbone: PreTrainedModel) -> int:
    return len(family(backbone.config.model_type).layers(backbone.config))
