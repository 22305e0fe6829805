"""Families of pretrained backbones: the Hugging Face names of their parts, and how they are run.

No other package knows these internals. A new backbone of a known modality is one entry in a table of this folder; a
test checks everything that an entry names against a randomly initialised model.
"""

import transformers
from torch import nn

from transrec.config import ConfigError
from transrec.item_encoders.families.family import Family, Head, Inputs, Modality
from transrec.item_encoders.families.image import IMAGE_FAMILIES
from transrec.item_encoders.families.text import TEXT_FAMILIES
from transrec.item_encoders.families.two_tower import TOWER_FAMILIES, TWO_TOWERS

__all__ = ["FAMILIES", "TWO_TOWERS", "Family", "Head", "Inputs", "Modality"]

FAMILIES: dict[str, Family] = TEXT_FAMILIES | IMAGE_FAMILIES | TOWER_FAMILIES


def family(model_type: str) -> Family:
    """Table entry of a model type.

    Raises:
        ConfigError: the model type is not in the table.
    """
    check_known(model_type)
    return FAMILIES[model_type]


def check_known(model_type: str) -> None:
    """Check that a model type is a family or a two-tower model.

    Raises:
        ConfigError: it is neither.
    """
    known = FAMILIES.keys() | TWO_TOWERS.keys()
    if model_type not in known:
        raise ConfigError(
            f"`backbone`: model type {model_type!r} is not supported: choose among {', '.join(sorted(known))}"
        )


def family_of(backbone: "transformers.PreTrainedModel") -> Family:
    return family(backbone.config.model_type)


def tower_config(config: "transformers.PretrainedConfig", modality: Modality) -> "transformers.PretrainedConfig":
    """Configuration of the tower that reads `modality`; `config` itself if the model has only one tower."""
    fields = TWO_TOWERS.get(config.model_type)
    return config if fields is None else getattr(config, fields[modality])


def max_tokens(config: "transformers.PretrainedConfig") -> int:
    """Length of the longest input that the backbone has positions for."""
    unused = config.pad_token_id + 1 if family(config.model_type).positions_follow_padding else 0
    number: int = config.max_position_embeddings - unused
    return number


def hidden_size(backbone: "transformers.PreTrainedModel") -> int:
    """The width of the last hidden states."""
    number: int = backbone.config.hidden_size
    return number


def state_widths(backbone: "transformers.PreTrainedModel") -> list[int]:
    """Widths of the states that `run_layers` can keep: the input of each layer, then the output of the last."""
    return family_of(backbone).widths(backbone.config)


def num_layers(backbone: "transformers.PreTrainedModel") -> int:
    return len(family_of(backbone).layers(backbone.config))


def prompts_in(backbone: "transformers.PreTrainedModel", positions: int) -> int:
    """Number of prompts among the positions of an image, for families with register tokens."""
    config, kind = backbone.config, family_of(backbone)
    patches = (config.image_size // config.patch_size) ** 2
    number: int = positions - int(kind.class_token is not None) - num_registers(backbone) - patches
    return number


def num_registers(backbone: "transformers.PreTrainedModel") -> int:
    field = family_of(backbone).registers
    return 0 if field is None else getattr(backbone.config, field)


def has_head(backbone: "transformers.PreTrainedModel") -> bool:
    """Whether the family's pooling head is built; some checkpoints have none."""
    head = family_of(backbone).head
    return head is not None and head.path in dict(backbone.named_children())


def stem(backbone: "transformers.PreTrainedModel") -> list[nn.Module]:
    return [backbone.get_submodule(path) for path in family_of(backbone).stem]


def layers(backbone: "transformers.PreTrainedModel") -> list[list[nn.Module]]:
    """The modules of each layer, in the order in which they run."""
    return [[backbone.get_submodule(path) for path in paths] for paths in family_of(backbone).layers(backbone.config)]


def site_paths(backbone: "transformers.PreTrainedModel") -> dict[str, list[str]]:
    """Paths of the sites, relative to the backbone: one per layer, or a single one for the whole tower."""
    kind = family_of(backbone)
    blocks = [block for block, *_ in kind.layers(backbone.config)]
    paths = {site: [f"{block}.{path}" for block in blocks] for site, path in kind.sites.items()}
    return paths | ({"embeddings": [kind.stem[-1]]} if kind.class_token is not None else {})
