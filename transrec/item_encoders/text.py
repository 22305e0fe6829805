"""Text item encoder: a pretrained language model and a projection to the recommender's width.

Shape letters: see `backbone_encoder`.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from transrec.config import Config, ConfigError, MayDiffer
from transrec.item_encoders import backbones, families
from transrec.item_encoders.backbone_encoder import BACKBONE_FOLDER, BackboneEncoder
from transrec.item_encoders.pooling import Pooling
from transrec.item_encoders.projection import Projection


class TextEncoderConfig(Config):
    """Configuration of `TextEncoder`."""

    name: Literal["text"] = Field("text", description="a language model and a projection")
    backbone: str = Field(
        "all-MiniLM-L6-v2", description="a folder, a hub id, or the name of a model installed as a Python package"
    )
    pretrained: bool = Field(True, description="false: the backbone's architecture with random weights")
    layers: int | None = Field(None, ge=1, description="number of first layers to keep; null: all")
    pooling: Pooling = Field(
        "cls", description="class token, mean over the tokens, or the backbone's own pooling head, if it has one"
    )
    projection: Projection = Field(
        "linear_gelu",
        description="projection: linear with a GELU (as released), linear, or an MLP of normalised features",
    )
    fields: list[str] = Field(["text"], min_length=1, description="fields of an item's record, joined by a space")
    max_tokens: int = Field(
        30, ge=3, description="maximum number of tokens, special tokens included; longer texts are truncated"
    )
    lowercase: bool = Field(True, description="convert the text to lower case first")
    chunk_tokens: Annotated[int, MayDiffer()] = Field(
        16384, ge=1, description="tokens per encoder pass, padding included"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="replaces every dropout of the backbone; null: the backbone's own"
    )

    embeds_ids: ClassVar[bool] = False

    def build(self, width: int, num_items: int) -> "TextEncoder":
        return TextEncoder(self, width)

    def content(self, omit_empty: bool = False) -> dict[str, Any]:
        """Content that the item store has to hold, by modality.

        Args:
            omit_empty: treat an empty text as a missing one.
        """
        return {"text": TextContent(self, omit_empty)}

    def save_assets(self, export: Path) -> None:
        """Save architecture and tokenizer next to the weights, so that this encoder can be rebuilt."""
        backbones.save_architecture(self.backbone, "text", export / BACKBONE_FOLDER)

    def from_export(self, export: Path) -> "TextEncoderConfig":
        """Configuration that rebuilds this encoder from `export`, without loading pretrained weights."""
        return self.model_copy(update={"backbone": str(export / BACKBONE_FOLDER), "pretrained": False})


class TextContent:
    """Turns item records into token ids.

    The tokenizer is loaded at first use and is not pickled, so that this object can be sent to workers.
    """

    augment = False

    def __init__(self, config: TextEncoderConfig, omit_empty: bool = False):
        self.config, self.omit_empty = config, omit_empty
        self.chunk_tokens = config.chunk_tokens

    @cached_property
    def key(self) -> str:
        """Hash of everything that `encode` depends on: equal keys mean equal token ids for equal records."""
        config = self.config
        filled = [] if self._filled_length is None else [self._filled_length]
        digest = hashlib.sha256(self._tokenizer_and_state[1].encode("utf-8"))
        settings = [config.fields, config.max_tokens, config.lowercase, self.omit_empty, *filled]
        digest.update(json.dumps(settings).encode("utf-8"))
        return digest.hexdigest()

    @property
    def pad_id(self) -> int:
        number: int = self._tokenizer_and_state[0].pad_token_id
        return number

    def encode(self, records: Sequence[dict[str, Any]]) -> list[list[int] | None]:
        """Token ids of each record, special tokens included; None for an empty text that is omitted.

        Padding is included only if the backbone was trained to read it.

        Raises:
            ConfigError: a record lacks one of `fields`; null or empty fields are skipped.
        """
        if not records:
            return []
        texts = [self._text(record) for record in records]
        encoded = self._tokenizer_and_state[0](
            texts,
            truncation=True,
            max_length=self.config.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [
            self._filled(ids) if text.strip() or not self.omit_empty else None
            for ids, text in zip(encoded, texts, strict=True)
        ]

    def _filled(self, ids: list[int]) -> list[int]:
        return ids if self._filled_length is None else ids + [self.pad_id] * (self._filled_length - len(ids))

    @cached_property
    def _filled_length(self) -> int | None:
        return backbones.filled_length(self.config.backbone)

    def _text(self, record: dict[str, Any]) -> str:
        missing = [field for field in self.config.fields if field not in record]
        if missing:
            raise ConfigError(
                f"`fields`: an item has no {missing[0]!r}: choose among its fields, {', '.join(sorted(record))}"
            )
        text = " ".join(str(record[field]) for field in self.config.fields if record[field])
        return text.lower() if self.config.lowercase else text

    @cached_property
    def _tokenizer_and_state(self) -> tuple[Any, str]:
        """The tokenizer and its serialised state, read before the first call adds truncation settings to it."""
        # Threads of the Rust tokenizer do not survive the fork of a data loader's worker.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer = backbones.load_tokenizer(self.config.backbone)
        return tokenizer, tokenizer.backend_tokenizer.to_str()

    def __reduce__(self) -> tuple[Any, ...]:
        return TextContent, (self.config, self.omit_empty)


class TextEncoder(BackboneEncoder):
    """e = GELU(W pool(Backbone(tokens)) + b): the text encoder of TransRec.

    Paper: Fu et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024, whose figure calls
    W the DTL. Deviations: each distinct item is encoded once, with padding of at most a fifth of a chunk, which gives
    the same loss and gradients as encoding every occurrence (with dropout, the occurrences share one mask); the unused
    pooler is not built; mean pooling is also supported.
    """

    modality = "text"

    def __init__(self, config: TextEncoderConfig, width: int):
        backbone = backbones.load_backbone(
            config.backbone,
            "text",
            pretrained=config.pretrained,
            layers=config.layers,
            dropout=config.dropout,
            head=config.pooling == "head",
        )
        longest = families.max_tokens(backbone.config)
        if config.max_tokens > longest:
            raise ConfigError(
                f"`max_tokens` is {config.max_tokens}, but backbone {config.backbone!r} has only {longest} positions: "
                "choose a smaller value"
            )
        super().__init__(backbone, config.pooling, width, config.projection)
