"""A backbone run layer by layer: a pass can start at any layer, stop before any, and keep the states of any."""

import itertools

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from transrec.config import ConfigError
from transrec.item_encoders.families import Inputs, family, hidden_size, max_tokens, num_layers
from transrec.nn.readout import Hidden


def embed(backbone: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Input of the first layer (n, T, H)."""
    return family(backbone.config.model_type).embed(backbone, inputs)


def run_layers(
    backbone: PreTrainedModel,
    states: Tensor,
    mask: Tensor | None,
    start: int = 0,
    stop: int | None = None,
    keep_all: bool = False,
) -> Hidden:
    """Layers `start` to the last, then the final norm, on the input of the first of them (n, T, H).

    Args:
        mask: (n, T), not 0 where a position counts; None where all do.
        stop: run the layers before this one only, and no norm.
        keep_all: return the input of every layer too, not the last states alone.
    """
    kind, last = family(backbone.config.model_type), num_layers(backbone)
    attendable = create_bidirectional_mask(config=backbone.config, inputs_embeds=states, attention_mask=mask)
    kept = []
    for layer in range(start, last if stop is None else stop):
        if keep_all:
            kept.append(states)
        states = kind.run_layer(backbone, layer, states, attendable)
    if kind.norm is not None and stop is None:
        states = backbone.get_submodule(kind.norm)(states)
    return Hidden([*kept, states], None if mask is None else mask.bool())


def stages(backbone: PreTrainedModel) -> list[list[nn.Module]]:
    """The modules of each part a pass runs through, in order: embeddings, every layer, what comes behind the last."""
    kind = family(backbone.config.model_type)
    layers = [[backbone.get_submodule(path)] for path in kind.layers(backbone.config)]
    if backbone.config.model_type == "swin":  # patches are merged behind the last block of a stage
        for stage, end in zip(backbone.encoder.layers, itertools.accumulate(backbone.config.depths), strict=True):
            layers[end - 1] += [] if stage.downsample is None else [stage.downsample]
    return [[backbone.embeddings], *layers, [backbone.get_submodule(kind.norm)] if kind.norm else []]


def enable_gradient_checkpointing(backbone: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass (non-reentrant, so frozen inputs are fine).

    Transformers would also make the embeddings' output require gradients, which only reentrant checkpointing
    needs: it would run the backward pass of a frozen backbone for nothing, so that is taken back.
    """
    backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    backbone.disable_input_require_grads()


def draw_prompts(backbone: PreTrainedModel, count: int) -> Tensor:
    """What prompts (count, H) start as: random rows of the vocabulary, embedded as any token is; zeros for images.

    Raises:
        ConfigError: more than a text has positions.
    """
    if family(backbone.config.model_type).modality == "image":
        return torch.zeros(count, hidden_size(backbone))
    if count > max_tokens(backbone):
        raise ConfigError(f"`tokens`: {count} exceeds the {max_tokens(backbone)} of the backbone")
    training, rows = backbone.training, torch.randint(backbone.config.vocab_size, (1, count))
    with torch.no_grad():
        embedded = embed(backbone.eval(), {"input_ids": rows}).squeeze(0)
    backbone.train(training)
    return embedded
