"""LoRA: a low-rank update of a frozen matrix, which can be merged into the matrix or written in PEFT's format.

Designs considered for PEFT's format. Training with PEFT itself: its adapters replace modules, and its save function
does not gather ZeRO-3 shards. A converter for our files: it would have to know the module names of each backbone.
Chosen: writing from the live model, whose module names are PEFT's target names already.

Shape letters: I inputs and O outputs of a site, r rank.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from transrec.adaptation.attach import adapters, detach, sites
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality, Sizes
from transrec.config import ConfigError
from transrec.protocols import Adapter, Model


class Ranks(Sizes):
    """Ranks of the matrices by kind of tower."""

    item: PositiveInt = Field(12, description="rank in the towers that read items")
    user: PositiveInt = Field(4, description="rank in the user encoder")


class LoRAConfig(AdapterMethod):
    """Queries and values get low-rank updates; everything else is frozen.

    Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, with the ranks and the α of Fu
    et al., WSDM 2024. The code of Fu et al. replaces the pretrained layers with new ones that have random, frozen
    weights and trained biases (`variant: released`).
    """

    rates = RateByModality(text=1e-3, image=1e-3)

    name: Literal["lora"] = Field("lora", description="low-rank updates of linear maps")
    sites: list[str] = Field(
        ["query", "value"],
        min_length=1,
        description="linear maps to update: query, key, value or ends of sub-layers (attention_output, ffn_output)",
    )
    layers: list[int] | None = Field(None, min_length=1, description="layers of the item towers; null: all")
    rank: Ranks = Field(Ranks(), description="rank of the update")
    alpha: float = Field(1.0, gt=0, description="the update is scaled by alpha / rank")
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    def adapters(self, model: Model) -> Iterator[Placed]:
        kind = LowRank if self.variant == "canonical" else FreshLowRank
        for tower in self.towers:
            for name in self.sites:
                for site in sites(model, tower, name, self.layers):
                    linear: Any = site.module
                    rank = self.rank.of(site.group)
                    yield Placed(site, kind(linear.in_features, linear.out_features, rank, self.alpha))


class LowRank(Adapter):
    """y + (α/r) B A x, with B = 0 at the start."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.a = nn.Linear(inputs, rank, bias=False)  # PyTorch's default, as in the paper's code: Kaiming-uniform, √5
        self.b = nn.Linear(rank, outputs, bias=False)
        self.alpha = alpha
        nn.init.zeros_(self.b.weight)

    @property
    def rank(self) -> int:
        return self.a.out_features

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.change(x)

    def change(self, x: Tensor) -> Tensor:
        tensor: Tensor = self.alpha / self.rank * self.b(self.a(x))
        return tensor


class FreshLowRank(LowRank):
    """W x + b + (α/r) B A x with a random, frozen W; the site's own output is discarded."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__(inputs, outputs, rank, alpha)
        fresh = nn.Linear(inputs, outputs)
        self.register_buffer("weight", fresh.weight.detach())
        self.bias = fresh.bias

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        fresh = self.get_buffer("weight").to(x.dtype)  # DeepSpeed casts parameters, not buffers
        return nn.functional.linear(x, fresh, self.bias) + self.change(x)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Merge each update into its frozen matrix, so that the model computes the same function without adapters.

    The weights must not be sharded by ZeRO-3.

    Raises:
        ConfigError: the model has no LoRA, or its LoRA does not use the pretrained matrices.
    """
    for path, adapter in _low_ranks(model).items():
        linear: Any = model.get_submodule(path)
        linear.weight += adapter.alpha / adapter.rank * adapter.b.weight @ adapter.a.weight
        detach(linear)


def as_peft(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`adapter_config.json` and the tensors of `adapter_model.safetensors`, as PEFT reads them for `model`.

    `model` is the backbone, for an adapter of the published model, or the whole recommender.

    Raises:
        ConfigError: the model has no LoRA, or PEFT's format cannot express its LoRA.
    """
    found, config, tensors = _low_ranks(model), {}, {}
    for path, adapter in found.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = adapter.a.weight.detach().clone()
        tensors[f"base_model.model.{path}.lora_B.weight"] = adapter.b.weight.detach().clone()
    first = next(iter(found.values()))
    config = {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {path: adapter.rank for path, adapter in found.items() if adapter.rank != first.rank},
        "alpha_pattern": {path: adapter.alpha for path, adapter in found.items() if adapter.alpha != first.alpha},
        "target_modules": sorted(found),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    return config, tensors


def _low_ranks(model: nn.Module) -> dict[str, LowRank]:
    found = {path: adapter for path, adapter in adapters(model) if isinstance(adapter, LowRank)}
    if not found:
        raise ConfigError("the model has no LoRA, so nothing can be merged or written for PEFT")
    if any(isinstance(adapter, FreshLowRank) for adapter in found.values()):
        raise ConfigError(
            "LoRA with `variant: released` does not use the pretrained matrices: use `variant: canonical`"
        )
    return found
