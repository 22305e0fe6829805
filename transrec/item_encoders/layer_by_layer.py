"""Running a backbone layer by layer: a pass can start at any layer, stop before any, and keep the states of any."""

import torch
import transformers
from torch import Tensor, nn

from transrec.config import ConfigError
from transrec.item_encoders import families
from transrec.item_encoders.families import Inputs
from transrec.nn.readout import Hidden


def embed(backbone: "transformers.PreTrainedModel", inputs: Inputs) -> Tensor:
    """Input of the first layer (n, T, H)."""
    states = families.family_of(backbone).embed(backbone, inputs)
    for module in families.stem(backbone)[1:]:
        states = module(states)
    return states


def run_layers(
    backbone: "transformers.PreTrainedModel",
    states: Tensor,
    mask: Tensor | None,
    start: int = 0,
    stop: int | None = None,
    keep_all: bool = False,
) -> Hidden:
    """Run the layers from `start` on, then the final norm; `states` (n, T, H) is the input of layer `start`.

    Args:
        mask: (n, T), 0 at padding; None if there is no padding.
        stop: run only the layers before this one, and no norm.
        keep_all: also return the input of every layer, not only the last states.
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


def stages(backbone: "transformers.PreTrainedModel") -> list[list[nn.Module]]:
    """Modules of each stage of a pass, in order: the stem, every layer, then norm and head together."""
    kind = families.family_of(backbone)
    norm = [] if kind.norm is None else [kind.norm]
    head = [kind.head.path] if kind.head is not None and families.has_head(backbone) else []
    return [families.stem(backbone), *families.layers(backbone), [backbone.get_submodule(path) for path in norm + head]]


def enable_gradient_checkpointing(backbone: "transformers.PreTrainedModel") -> None:
    """Recompute each layer in the backward pass (non-reentrant, so frozen inputs are fine).

    Transformers also makes the embeddings' output require gradients, which only reentrant checkpointing needs. It
    would cause a useless backward pass through a frozen backbone, so it is undone.
    """
    backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    backbone.disable_input_require_grads()


def draw_prompts(backbone: "transformers.PreTrainedModel", count: int) -> Tensor:
    """Initial prompts (count, H): embeddings of random tokens of the vocabulary for text, zeros for images.

    Raises:
        ConfigError: `count` exceeds the number of positions of a text.
    """
    if families.family_of(backbone).modality == "image":
        return torch.zeros(count, families.hidden_size(backbone))
    longest = families.max_tokens(backbone.config)
    if count > longest:
        raise ConfigError(
            f"`tokens` of the prompt adaptation is {count}, but the backbone has only {longest} positions: choose a "
            "smaller value"
        )
    training, rows = backbone.training, torch.randint(backbone.config.vocab_size, (1, count))
    with torch.no_grad():
        embedded = embed(backbone.eval(), {"input_ids": rows}).squeeze(0)
    backbone.train(training)
    return embedded
