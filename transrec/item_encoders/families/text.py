"""Families of language models."""

from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from transrec.item_encoders.families.family import Context, Family, Inputs, cut_stack, stack


def embed_text(backbone: Any, inputs: Inputs) -> Tensor:
    """Embeddings (n, T, H) of tokens."""
    tensor: Tensor = backbone.embeddings(input_ids=inputs["input_ids"])
    return tensor


def _local_and_global(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    """ModernBERT: rotary positions of two frequencies; most layers attend to a window, the others to all tokens."""
    given = {"config": backbone.config, "inputs_embeds": states, "attention_mask": mask}
    given["allow_is_bidirectional_skip"] = mask is None  # see `bidirectional`
    types: list[str] = backbone.config.layer_types
    masks = {
        "full_attention": transformers.masking_utils.create_bidirectional_mask(**given),
        "sliding_attention": transformers.masking_utils.create_bidirectional_sliding_window_mask(**given),
    }
    places = torch.arange(states.shape[1], device=states.device).unsqueeze(0)
    rotary = {kind: backbone.rotary_emb(states, places, kind) for kind in set(types)}
    return lambda layer: {"attention_mask": masks[types[layer]], "position_embeddings": rotary[types[layer]]}


def _cut_types_too(config: "transformers.PretrainedConfig", layers: int) -> None:
    cut_stack(config, layers)
    config.layer_types = config.layer_types[:layers]


_BERT = Family(
    modality="text",
    model="BertModel",
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
    layers=stack("encoder.layer"),
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    embed=embed_text,
    has_pooler=True,
)

TEXT_FAMILIES = {
    "bert": _BERT,
    "roberta": replace(_BERT, model="RobertaModel", positions_follow_padding=True),
    "distilbert": Family(
        modality="text",
        model="DistilBertModel",
        sites={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_input": "attention",
            "attention_output": "attention.out_lin",
            "ffn_input": "ffn",
            "ffn_hidden": "ffn.activation",
            "ffn_output": "ffn.lin2",
            "ffn_norm": "output_layer_norm",
        },
        layers=stack("transformer.layer"),
        dropout=("dropout", "attention_dropout"),
        embed=embed_text,
    ),
    "modernbert": Family(
        modality="text",
        model="ModernBertModel",
        sites={  # a single matrix computes queries, keys and values, so they are not sites of their own
            "attention_input": "attn",
            "attention_output": "attn.Wo",
            "ffn_input": "mlp",
            "ffn_hidden": "mlp.act",  # a gate multiplies its output, so scaling it scales the product
            "ffn_output": "mlp.Wo",
        },
        layers=stack("layers"),
        dropout=("embedding_dropout", "attention_dropout", "mlp_dropout"),
        embed=embed_text,
        context=_local_and_global,
        norm="final_norm",
        cut=_cut_types_too,
    ),
}
