"""The entry of a table of pretrained backbones: how Hugging Face names the parts of a family, and how they are run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from transformers import PretrainedConfig
from transformers.masking_utils import create_bidirectional_mask

Inputs = Mapping[str, Tensor]  # input_ids and attention_mask (n, T), or pixel_values (n, 3, side, side)
Modality = Literal["text", "image"]
Layers = Callable[[PretrainedConfig], list[tuple[str, ...]]]
Context = Callable[[int], dict[str, Any]]  # from the number of a layer to the arguments it takes beside its states


@dataclass(frozen=True)
class Head:
    """The pooling that a family was trained with, if modules of its own do it."""

    path: str  # of those modules
    pool: Callable[[Any, Tensor], Tensor]  # from the backbone and its last states (n, T, H) to (n, W)
    width: str = "hidden_size"  # field of the configuration that holds W


def run_layer(backbone: Any, paths: tuple[str, ...], states: Tensor, context: dict[str, Any]) -> Tensor:
    """The states (n, T, H) that the block at the first path makes of `states`."""
    tensor: Tensor = backbone.get_submodule(paths[0])(states, **context)
    return tensor


def bidirectional(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    """Every position attends to every one that counts."""
    attendable = create_bidirectional_mask(config=backbone.config, inputs_embeds=states, attention_mask=mask)
    return lambda layer: {"attention_mask": attendable}


def stack(path: str) -> Layers:
    """Layers that are the children 0, 1, … of the module at `path`."""
    return lambda config: [(f"{path}.{layer}",) for layer in range(config.num_hidden_layers)]


def same_width(config: PretrainedConfig) -> list[int]:
    """Widths of the states of a model whose layers all have the same."""
    return [config.hidden_size] * (config.num_hidden_layers + 1)


def cut_stack(config: PretrainedConfig, layers: int) -> None:
    """Keep the first `layers` layers."""
    config.num_hidden_layers = layers


def cut_stages(config: PretrainedConfig, layers: int) -> None:
    """Cut the names of the stages too, which are those of the layers; the configuration cannot be read again else."""
    cut_stack(config, layers)
    config.stage_names = config.stage_names[: layers + 1]
    config.out_features = config.stage_names[-1:]


@dataclass(frozen=True)
class Family:
    """The parts of the models of one `model_type`; paths are relative to the backbone, those of sites to a layer.

    A backbone is run here as stem -> layers -> norm instead of by its own forward: a pass can then start at any layer
    and keep the states of any, and an adapter may lengthen the sequence. A test holds it equal to that forward.
    """

    modality: Modality
    model: str  # class of transformers
    sites: Mapping[str, str]
    layers: Layers  # paths of each layer, first to last: the block with the sites, then modules that run behind it
    dropout: tuple[str, ...]  # fields of the configuration
    embed: Callable[[Any, Inputs], Tensor]  # the output of the first module of the stem
    stem: tuple[str, ...] = ("embeddings",)  # makes the input of the first layer; each module reads the one before it
    context: Callable[[Any, Tensor, Tensor | None], Context] = bidirectional  # of states (n, T, H) and their mask
    run_layer: Callable[[Any, tuple[str, ...], Tensor, dict[str, Any]], Tensor] = run_layer
    norm: str | None = None  # after the last layer
    widths: Callable[[PretrainedConfig], list[int]] = same_width  # of the input of each layer, then of the last states
    cut: Callable[[PretrainedConfig, int], None] | None = cut_stack  # to the first layers; None: it is used whole

    stochastic_depth: tuple[str, ...] = ()  # fields of the configuration that `dropout` sets to 0
    jitter: tuple[str, ...] = ()  # fields that a training pass reads to move positions at random; None ends it
    drops_nothing: tuple[str, ...] = ()  # modules whose rate is 0 whatever the configuration

    class_token: Literal["first", "last"] | None = "first"  # the position that stands for the whole input
    registers: str | None = None  # field with the number of positions behind the class token that are no patches
    head: Head | None = None
    has_pooler: bool = False  # that its constructor can be told to leave out

    tokenizer: str = "AutoTokenizer"  # class of transformers
    positions_follow_padding: bool = False  # the first token has the position behind the index of the padding token
    fills_positions: bool = False  # trained on texts that padding, which it attends to, makes as long as it can read
    image_sizes: Literal["own", "interpolated", "rotary"] = "interpolated"  # others than its own it reads, and how
    masks_patches: bool = False  # a masked autoencoder, with `mask_ratio` in its configuration
