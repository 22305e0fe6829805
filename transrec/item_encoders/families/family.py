"""Table entry of a backbone family: the Hugging Face names of its parts, and how they are run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import transformers
from torch import Tensor

Inputs = Mapping[str, Tensor]  # input_ids and attention_mask (n, T), or pixel_values (n, 3, side, side)
Modality = Literal["text", "image"]
Layers = Callable[["transformers.PretrainedConfig"], list[tuple[str, ...]]]
Widths = Callable[["transformers.PretrainedConfig"], list[int]]
Cut = Callable[["transformers.PretrainedConfig", int], None]
Context = Callable[[int], dict[str, Any]]  # layer index -> arguments of the layer in addition to the states


@dataclass(frozen=True)
class Head:
    """Pooling head that a family was trained with."""

    path: str  # of the head's module
    pool: Callable[[Any, Tensor], Tensor]  # (backbone, last states (n, T, H)) -> (n, W)
    width: str = "hidden_size"  # configuration field that holds W


def run_layer(backbone: Any, paths: tuple[str, ...], states: Tensor, context: dict[str, Any]) -> Tensor:
    """Output states (n, T, H) of the block at the first path."""
    tensor: Tensor = backbone.get_submodule(paths[0])(states, **context)
    return tensor


def bidirectional(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    """Context in which every position attends to all positions except padding.

    Transformers would omit a mask without padding; to find out, the host has to wait for the device.
    """
    attendable = transformers.masking_utils.create_bidirectional_mask(
        config=backbone.config, inputs_embeds=states, attention_mask=mask, allow_is_bidirectional_skip=mask is None
    )
    return lambda layer: {"attention_mask": attendable}


def stack(path: str) -> Layers:
    """Layers at the children 0, 1, … of the module at `path`."""
    return lambda config: [(f"{path}.{layer}",) for layer in range(config.num_hidden_layers)]


def same_width(config: "transformers.PretrainedConfig") -> list[int]:
    """Widths of the states of a model whose layers all have the same width."""
    return [config.hidden_size] * (config.num_hidden_layers + 1)


def cut_stack(config: "transformers.PretrainedConfig", layers: int) -> None:
    """Keep the first `layers` layers."""
    config.num_hidden_layers = layers


def cut_stages(config: "transformers.PretrainedConfig", layers: int) -> None:
    """Keep the first `layers` layers, and only their stage names, so that the saved configuration can be loaded."""
    cut_stack(config, layers)
    config.stage_names = config.stage_names[: layers + 1]
    config.out_features = config.stage_names[-1:]


@dataclass(frozen=True)
class Family:
    """Parts of the models of one `model_type`; site paths are relative to a layer, other paths to the backbone.

    A backbone is run as stem -> layers -> norm instead of by its own forward, so that a pass can start at any layer
    and keep the states of any, and an adapter may lengthen the sequence. A test checks that both give the same output.
    """

    modality: Modality
    model: str  # class of transformers
    sites: Mapping[str, str]
    layers: Layers  # paths of each layer, first to last: the block with the sites, then modules that run after it
    dropout: tuple[str, ...]  # configuration fields
    embed: Callable[[Any, Inputs], Tensor]  # the output of the first module of the stem
    stem: tuple[str, ...] = ("embeddings",)  # computes the first layer's input; each module reads the previous one
    context: Callable[[Any, Tensor, Tensor | None], Context] = bidirectional  # from states (n, T, H) and mask
    run_layer: Callable[[Any, tuple[str, ...], Tensor, dict[str, Any]], Tensor] = run_layer
    norm: str | None = None  # after the last layer
    widths: Widths = same_width  # of the input of each layer, then of the last states
    cut: Cut | None = cut_stack  # keeps the first layers; None: cannot be cut

    stochastic_depth: tuple[str, ...] = ()  # configuration fields that `dropout` sets to 0
    jitter: tuple[str, ...] = ()  # configuration fields of random position jitter in training; None disables it
    drops_nothing: tuple[str, ...] = ()  # modules whose rate is always 0, whatever the configuration

    class_token: Literal["first", "last"] | None = "first"  # position that represents the whole input
    registers: str | None = None  # configuration field: number of register tokens after the class token
    head: Head | None = None
    has_pooler: bool = False  # which its constructor can leave out

    tokenizer: str = "AutoTokenizer"  # class of transformers
    positions_follow_padding: bool = False  # positions start after the index of the padding token
    fills_positions: bool = False  # trained on texts padded to full length, with attention to padding
    image_sizes: Literal["own", "interpolated", "rotary"] = "interpolated"  # how it reads sizes other than its own
    masks_patches: bool = False  # a masked autoencoder, with `mask_ratio` in its configuration
