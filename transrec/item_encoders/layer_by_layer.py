"""A backbone run layer by layer: a pass can start at any layer, stop before any, and keep the states of any."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from transrec.config import ConfigError
from transrec.item_encoders import families
from transrec.item_encoders.families import Inputs
from transrec.nn.readout import Hidden


def embed(backbone: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Input of the first layer (n, T, H)."""
    states = families.family_of(backbone).embed(backbone, inputs)
    for module in families.stem(backbone)[1:]:
        states = module(states)
    return states


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
    kind, paths = families.family_of(backbone), families.family_of(backbone).layers(backbone.config)
    context, kept = kind.context(backbone, states, mask), []
    for layer in range(start, len(paths) if stop is None else stop):
        if keep_all:
            kept.append(states)
        states = kind.run_layer(backbone, paths[layer], states, context(layer))
    if kind.norm is not None and stop is None:
        states = backbone.get_submodule(kind.norm)(states)
    return Hidden([*kept, states], None if mask is None else mask.bool())


def stages(backbone: PreTrainedModel) -> list[list[nn.Module]]:
    """The modules of each part a pass runs through, in order: stem, every layer, norm and head behind the last."""
    kind = families.family_of(backbone)
    norm = [] if kind.norm is None else [kind.norm]
    head = [kind.head.path] if kind.head is not None and families.has_head(backbone) else []
    return [families.stem(backbone), *families.layers(backbone), [backbone.get_submodule(path) for path in norm + head]]


def enable_gradient_checkpointing(backbone: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass (non-reentrant, so frozen inputs are fine).

    Transformers would also make the embeddings' output require gradients, which only reentrant checkpointing
    needs: it would run the backward pass of a frozen backbone for nothing, so that is taken back.
    """
    backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    backbone.disable_input_require_grads()


def draw_prompts(backbone: PreTrainedModel, count: int) -> Tensor:
    """Prompts (count, H) as they start: random rows of the vocabulary, embedded as any token is; zeros for images.

    Raises:
        ConfigError: more than a text has positions.
    """
    if families.family_of(backbone).modality == "image":
        return torch.zeros(count, families.hidden_size(backbone))
    longest = families.max_tokens(backbone.config)
    if count > longest:
        raise ConfigError(f"`tokens`: {count} exceeds the {longest} of the backbone")
    training, rows = backbone.training, torch.randint(backbone.config.vocab_size, (1, count))
    with torch.no_grad():
        embedded = embed(backbone.eval(), {"input_ids": rows}).squeeze(0)
    backbone.train(training)
    return embedded
