"""Tiny data, a tiny language model and the configurations that tests train on them."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_shards(folder: Path, users: int = 200, items: int = 80, interactions: int = 3000, seed: int = 0) -> Path:
    build(SyntheticSource(users, items, interactions, seed), "synthetic", folder)
    return folder


def build_backbone(folder: Path, *shard_sets: Path, hidden: int = 32, more_words: Collection[str] = ()) -> Path:
    """A random BERT and a WordPiece tokenizer over every word of the shards' texts, in the Hugging Face layout.

    Args:
        more_words: those of other fields than `text`.
    """
    texts = [record["text"].lower() for shards in shard_sets for record in ItemShards(ShardFolder(shards))]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)} | set(more_words))
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=hidden,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * hidden,
                max_position_embeddings=40,
            ),
            add_pooling_layer=False,
        ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Tiny:
    """A configuration file and what it points at."""

    config: Path
    shards: Path
    backbone: Path


def write_tiny(folder: Path) -> Tiny:
    """A text SASRec, dropout on, whose step takes some 20 ms; its data come as two chunks and more per step."""
    shards = build_shards(folder / "shards")
    backbone = build_backbone(folder / "backbone", shards)
    values = {
        # 113 windows: the eighth step of 16 has a single one, so that one of two ranks has none.
        "data": {"path": str(shards), "fraction": 0.28, "workers": 0, "cache": str(folder / "cache")},
        "model": {
            "width": 16,
            "max_length": 8,
            "item_encoder": {"name": "text", "backbone": str(backbone), "max_tokens": 16, "chunk_tokens": 200},
            "user_encoder": {"name": "sasrec", "layers": 1},
            "objective": {"name": "next_item"},
        },
        "train": {
            "steps": 12,
            "batch_size": 16,
            "log_every": 1,
            "evaluate_every": "never",
            "checkpoint_every": "never",
        },
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "adapter": 2e-3}},
    }
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return Tiny(config, shards, backbone)


# Everything that enters an update, and nothing random: such runs can be compared whatever their number of ranks.
COMPARABLE = [
    "model.item_encoder.dropout=0",
    "model.user_encoder.dropout=0",
    "train.clipping=1.0",
    "optimizer.weight_decay=0.01",
    "optimizer.schedule=linear",
    "optimizer.warmup=0.25",
]
_NARROW = "also_train: [head], bottleneck: {item: 8, user: 4}"
ADAPTATIONS = {
    "full": "adaptation={name: full}",
    "houlsby": f"adaptation={{name: houlsby, {_NARROW}}}",
    "parallel": f"adaptation={{name: pfeiffer, mode: parallel, {_NARROW}}}",
    "compacter": f"adaptation={{name: compacter, init_std: 0.1, {_NARROW}}}",
    "model_patch": "adaptation={name: model_patch, also_train: [head]}",
    "lora": "adaptation={name: lora, also_train: [head], rank: {item: 4, user: 2}}",
    "k_adapter": f"adaptation={{name: k_adapter, heads: {{item: 2, user: 2}}, dropout: 0, {_NARROW}}}",
    "ia3": "adaptation={name: ia3, also_train: [head]}",
    "prompt": "adaptation={name: prompt, also_train: [head], tokens: 5}",
    "side_network": f"adaptation={{name: side_network, towers: [item, user], init_std: 0.1, {_NARROW}}}",
    "layer_norm": "adaptation={name: layer_norm, also_train: [head]}",
    "head_only": "adaptation={name: head_only}",
    "frozen_backbone": "adaptation={name: frozen_backbone}",
    "combined": "adaptation=[{name: lora, also_train: [head]}, {name: bitfit}]",
}


# PeterRec's pretraining, causal and not.
USER_MODELS = {
    "nextitnet": [
        "model.user_encoder={name: nextitnet, dilations: [1, 4]}",
        "model.objective={name: sampled_softmax}",
        "model.output=untied",
    ],
    "cloze": [
        "model.user_encoder={name: nextitnet, dilations: [1, 4], causal: false}",
        "model.objective={name: cloze}",
    ],
}
