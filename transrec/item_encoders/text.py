"""Text item encoder: a pretrained language model and a projection to the recommender's width.

Shape letters: U distinct items of a batch, n items of a chunk, T tokens of a chunk, H width of the backbone,
D width of the recommender.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config, ConfigError
from transrec.data.batch import ItemContent, TokenChunk
from transrec.item_encoders import backbones

BACKBONE_FOLDER = "backbone"


class TextEncoderConfig(Config):
    name: Literal["text"] = "text"
    backbone: str = "all-MiniLM-L6-v2"  # a folder, a hub id, or a name in `backbones.PACKAGED`
    pretrained: bool = True  # False: the backbone's architecture with random weights
    layers: int | None = Field(None, ge=1)  # keep only the first so many layers
    pooling: Literal["cls", "mean"] = "cls"
    fields: list[str] = Field(["text"], min_length=1)  # of an item's record, joined by a space
    max_tokens: int = Field(30, ge=3)  # special tokens included
    lowercase: bool = True
    chunk_tokens: int = Field(16384, ge=1)  # tokens of one encoder pass, padding included
    dropout: float | None = Field(None, ge=0, lt=1)  # None: the backbone's own

    def build(self, width: int, num_items: int) -> "TextEncoder":
        return TextEncoder(self, width)

    def content(self) -> "TextContent":
        return TextContent(self)

    def save_assets(self, export: Path) -> None:
        """Put beside the weights what is needed to build this encoder again: architecture and tokenizer."""
        backbones.save_architecture(self.backbone, export / BACKBONE_FOLDER)

    def from_export(self, export: Path) -> "TextEncoderConfig":
        """This encoder as `export` holds it: its architecture without pretrained weights, its tokenizer."""
        return self.model_copy(update={"backbone": str(export / BACKBONE_FOLDER), "pretrained": False})


class TextContent:
    """Turns item records into token ids.

    The tokenizer is loaded at first use and left behind when this object is pickled, so it can be sent to
    workers.
    """

    def __init__(self, config: TextEncoderConfig):
        self.config = config
        self.chunk_tokens = config.chunk_tokens

    @cached_property
    def key(self) -> str:
        """Names what `encode` depends on: equal keys mean equal token ids for equal records."""
        config = self.config
        digest = hashlib.sha256(self._tokenizer_and_state[1].encode("utf-8"))
        digest.update(json.dumps([config.fields, config.max_tokens, config.lowercase]).encode("utf-8"))
        return digest.hexdigest()

    @property
    def pad_id(self) -> int:
        return self._tokenizer_and_state[0].pad_token_id

    def encode(self, records: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Token ids of each record, special tokens included, unpadded.

        Raises:
            ConfigError: a record without one of `fields`; one that is null or empty is just left out.
        """
        if not records:
            return []
        return self._tokenizer_and_state[0](
            [self._text(record) for record in records],
            truncation=True,
            max_length=self.config.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    def _text(self, record: dict[str, Any]) -> str:
        missing = [field for field in self.config.fields if field not in record]
        if missing:
            raise ConfigError(f"`fields`: an item has no {missing[0]!r}, only {', '.join(sorted(record))}")
        text = " ".join(str(record[field]) for field in self.config.fields if record[field])
        return text.lower() if self.config.lowercase else text

    @cached_property
    def _tokenizer_and_state(self) -> tuple[Any, str]:
        """The tokenizer, and its file as text, taken before the first call writes its truncation into it."""
        # Threads of the Rust tokenizer do not survive the fork of a data loader's worker.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer = backbones.load_tokenizer(self.config.backbone)
        return tokenizer, tokenizer.backend_tokenizer.to_str()

    def __reduce__(self) -> tuple[Any, ...]:
        return TextContent, (self.config,)


class TextEncoder(nn.Module):
    """e = GELU(W pool(Backbone(tokens)) + b): the text encoder of TransRec.

    Paper: Fu et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024; W is the
    DTL of its figure. Deviations: each distinct item is encoded once and padded only to the longest of its
    chunk, which gives the same loss and gradients as encoding every occurrence (with dropout, the occurrences
    share one mask); the unused pooler is not built; mean pooling is offered too.
    """

    def __init__(self, config: TextEncoderConfig, width: int):
        super().__init__()
        self.backbone = backbones.load_backbone(
            config.backbone, pretrained=config.pretrained, layers=config.layers, dropout=config.dropout
        )
        longest = backbones.max_tokens(self.backbone)
        if config.max_tokens > longest:
            raise ConfigError(
                f"`max_tokens`: {config.max_tokens} exceeds the {longest} of backbone {config.backbone!r}"
            )
        self.projection = nn.Linear(backbones.hidden_size(self.backbone), width)
        self.pooling = config.pooling
        self.num_layers = backbones.num_layers(self.backbone)
        paths = backbones.site_paths(self.backbone)
        self.site_paths = {site: f"backbone.{path}" for site, path in paths.items()}

    def forward(self, content: ItemContent) -> Tensor:
        if not content.text:
            raise ValueError("the text encoder needs a batch with text: build the stream with content()")
        pooled_UH = torch.cat([self._pool(chunk) for chunk in content.text])
        for _ in range(content.chunks - len(content.text)):
            pooled_UH = self._with_extra_pass(pooled_UH, content.text[0])
        return F.gelu(self.projection(pooled_UH))

    def enable_gradient_checkpointing(self) -> None:
        backbones.enable_gradient_checkpointing(self.backbone)

    def _pool(self, chunk: TokenChunk) -> Tensor:
        mask_nT = chunk["attention_mask"]
        hidden_nTH = self.backbone(input_ids=chunk["input_ids"], attention_mask=mask_nT).last_hidden_state
        if self.pooling == "cls":
            return hidden_nTH[:, 0]
        weight_nT1 = mask_nT.unsqueeze(-1).to(hidden_nTH.dtype)
        return (hidden_nTH * weight_nT1).sum(1) / weight_nT1.sum(1).clamp(min=1)

    def _with_extra_pass(self, pooled_UH: Tensor, chunk: TokenChunk) -> Tensor:
        """`pooled_UH` unchanged, with one more pass of the backbone in its graph.

        ZeRO-3 gathers a layer's parameters on all ranks together, forward and backward, so a rank with fewer
        chunks has to run the passes of the others. Multiplying by zero keeps the pass in the graph (autograd
        does not look at values) and leaves outputs and gradients alone. 0 * inf would be nan, but the pass
        repeats the batch's own first row: where it overflows, the batch has overflowed already.
        """
        extra_1H = self._pool({name: tensor[:1] for name, tensor in chunk.items()})
        return pooled_UH + 0 * extra_1H
