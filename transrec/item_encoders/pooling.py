"""Pooling of the last states of a text or an image to one vector.

Shape letters: n items of a chunk, T positions, H width of the backbone, W width of the pooled vector.
"""

from typing import Literal

import torch
import transformers
from torch import Tensor

from transrec.config import ConfigError
from transrec.item_encoders import families

Pooling = Literal["cls", "mean", "head"]


def pooled_width(backbone: "transformers.PreTrainedModel", pooling: Pooling) -> int:
    """Width W of the pooled vector.

    Raises:
        ConfigError: `backbone` does not support this pooling.
    """
    kind, name = families.family_of(backbone), backbone.config.model_type
    if pooling == "cls" and kind.class_token is None:
        raise ConfigError(f"`pooling`: {name} has no class token; set it to {'head or ' if kind.head else ''}mean")
    if pooling == "head":
        if kind.head is None or not families.has_head(backbone):
            raise ConfigError(f"`pooling`: this {name} backbone has no pooling head; set it to cls or mean")
        number: int = getattr(backbone.config, kind.head.width)
        return number
    return families.hidden_size(backbone)


def pool(backbone: "transformers.PreTrainedModel", pooling: Pooling, states_nTH: Tensor, mask: Tensor | None) -> Tensor:
    """Pooled vectors (n, W): class token, mean over a text's tokens or an image's patches, or the head's output.

    The mean includes prompts, and excludes the class and register tokens of an image.
    """
    kind = families.family_of(backbone)
    if pooling == "head" and kind.head is not None:
        return kind.head.pool(backbone, states_nTH)
    if pooling == "cls":
        return states_nTH[:, 0] if kind.class_token == "first" else _last(states_nTH, mask)
    if mask is None:
        return tokens(backbone, states_nTH, mask).mean(1)
    weight_nT1 = mask.unsqueeze(-1).to(states_nTH.dtype)
    return (states_nTH * weight_nT1).sum(1) / weight_nT1.sum(1).clamp(min=1)


def tokens(backbone: "transformers.PreTrainedModel", states_nTH: Tensor, mask: Tensor | None) -> Tensor:
    """States over which `mean` averages: all of a text, including padding, which the mask excludes, or those of an
    image's patches and prompts."""
    return _patches(backbone, states_nTH) if mask is None else states_nTH


def _last(states_nTH: Tensor, mask: Tensor | None) -> Tensor:
    """State of the last position before the padding."""
    if mask is None:
        return states_nTH[:, -1]
    last_n = mask.long().sum(1) - 1
    return states_nTH[torch.arange(len(states_nTH), device=states_nTH.device), last_n]


def _patches(backbone: "transformers.PreTrainedModel", states_nTH: Tensor) -> Tensor:
    """States of the patches and the prompts; prompts lie between the class token and the registers."""
    tokens = int(families.family_of(backbone).class_token is not None)
    registers = families.num_registers(backbone)
    prompts = families.prompts_in(backbone, states_nTH.shape[1]) if registers else 0
    behind = states_nTH[:, tokens + prompts + registers :]
    return torch.cat([states_nTH[:, tokens : tokens + prompts], behind], dim=1) if prompts else behind
