"""Families of vision models."""

import math
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from transrec.item_encoders.families.family import Context, Family, Inputs, cut_stages, stack


def embed_image(backbone: Any, inputs: Inputs) -> Tensor:
    """Embeddings (n, T, H) of patches; positions are interpolated if the image size differs from the model's."""
    pixels = inputs["pixel_values"]
    tensor: Tensor = backbone.embeddings(pixels, interpolate_pos_encoding=_other_size(backbone, pixels))
    return tensor


def _other_size(backbone: Any, pixels: Tensor) -> bool:
    return tuple(pixels.shape[-2:]) != (backbone.config.image_size,) * 2


def _embed_mae(backbone: Any, inputs: Inputs) -> Tensor:
    """Embeddings (n, T, H); unmasked patches keep their order, which only makes the rounding reproducible."""
    pixels, noise = inputs["pixel_values"], None
    if not backbone.config.mask_ratio:
        patches = (pixels.shape[-1] // backbone.config.patch_size) ** 2
        noise = torch.arange(patches, device=pixels.device, dtype=pixels.dtype).expand(len(pixels), -1)
    states, *_ = backbone.embeddings(pixels, noise, _other_size(backbone, pixels))
    tensor: Tensor = states
    return tensor


def _embed_dinov2(backbone: Any, inputs: Inputs) -> Tensor:
    tensor: Tensor = backbone.embeddings(inputs["pixel_values"])
    return tensor


def _embed_dinov3(backbone: Any, inputs: Inputs) -> Tensor:
    """Embeddings (n, T, H) of class token, registers and patches.

    Raises:
        ValueError: the image size differs from the configuration's, from which `_rotary` takes the grid.
    """
    pixels = inputs["pixel_values"]
    if _other_size(backbone, pixels):
        side = backbone.config.image_size
        raise ValueError(f"images of {tuple(pixels.shape[-2:])} where the configuration has {side}: set `image_size`")
    tensor: Tensor = backbone.embeddings(pixels)
    return tensor


def _rotary(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    """Rotary positions of DINOv3's patches. They depend on the image size only, so an empty batch suffices."""
    side = backbone.config.image_size
    rotary = backbone.rope_embeddings(states.new_empty(0, 3, side, side))
    return lambda layer: {"position_embeddings": rotary}


def _embed_swin(backbone: Any, inputs: Inputs) -> Tensor:
    states, _ = backbone.embeddings(inputs["pixel_values"])
    tensor: Tensor = states
    return tensor


def _swin_layers(config: "transformers.PretrainedConfig") -> list[tuple[str, ...]]:
    """Blocks of all stages; patches are merged after the last block of every stage except the last."""
    stages = [[(f"encoder.layers.{s}.blocks.{b}",) for b in range(depth)] for s, depth in enumerate(config.depths)]
    layers: list[tuple[str, ...]] = []
    for number, blocks in enumerate(stages):
        merging = () if number == len(stages) - 1 else (f"encoder.layers.{number}.downsample",)
        layers += [*blocks[:-1], blocks[-1] + merging]
    return layers


def _swin_widths(config: "transformers.PretrainedConfig") -> list[int]:
    widths = [config.embed_dim * 2**stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
    return [*widths, config.hidden_size]


def _run_swin_layer(backbone: Any, paths: tuple[str, ...], states: Tensor, context: dict[str, Any]) -> Tensor:
    block, *merging = paths
    side = math.isqrt(states.shape[1])
    states, _ = backbone.get_submodule(block)(states, (side, side))
    for path in merging:
        states = backbone.get_submodule(path)(states, (side, side))
    return states


def _no_context(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    return lambda layer: {}


_VIT = Family(
    modality="image",
    model="ViTModel",
    sites={
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "attention_input": "attention",
        "attention_output": "attention.o_proj",
        "ffn_input": "mlp",
        "ffn_hidden": "mlp.activation_fn",
        "ffn_output": "mlp.fc2",
    },
    layers=stack("layers"),
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    embed=embed_image,
    norm="layernorm",
    has_pooler=True,
)

IMAGE_FAMILIES = {
    "vit": _VIT,
    "vit_mae": replace(_VIT, model="ViTMAEModel", embed=_embed_mae, has_pooler=False, masks_patches=True),
    "dinov2": replace(
        _VIT,
        model="Dinov2Model",
        layers=stack("encoder.layer"),
        stochastic_depth=("drop_path_rate",),
        embed=_embed_dinov2,
        cut=cut_stages,
        has_pooler=False,
    ),
    "dinov3_vit": Family(
        modality="image",
        model="DINOv3ViTModel",
        sites={
            "query": "attention.q_proj",
            "key": "attention.k_proj",
            "value": "attention.v_proj",
            "attention_input": "attention",
            "attention_output": "attention.o_proj",
            "ffn_input": "mlp",
            "ffn_hidden": "mlp.act_fn",
            "ffn_output": "mlp.down_proj",
        },
        layers=stack("model.layer"),
        dropout=("attention_dropout",),
        stochastic_depth=("drop_path_rate",),
        jitter=("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
        embed=_embed_dinov3,
        context=_rotary,
        norm="norm",
        cut=cut_stages,
        registers="num_register_tokens",
        image_sizes="rotary",
    ),
    "swin": replace(
        _VIT,
        model="SwinModel",
        layers=_swin_layers,
        stochastic_depth=("drop_path_rate",),
        embed=_embed_swin,
        context=_no_context,
        run_layer=_run_swin_layer,
        widths=_swin_widths,
        cut=None,
        class_token=None,
        image_sizes="own",
    ),
}
