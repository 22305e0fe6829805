"""LoRA: a low-rank change beside a frozen matrix, which can be folded into it, or written as PEFT reads it.

Designs considered for PEFT's layout. PEFT itself, as a dependency of training: its adapters replace modules, and its
saving does not gather what ZeRO-3 has cut up. A converter of our files, by names: it would have to know each
backbone's. Taken: from the live model, whose module names are PEFT's target names already.

Shape letters: I inputs and O outputs of a site, r rank.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.adaptation.attach import Tower, detach, sites
from transrec.adaptation.bottleneck import SubLayerEnd
from transrec.adaptation.method import AdapterMethod, Rates
from transrec.config import Config, ConfigError


class Ranks(Config):
    item: int = Field(12, ge=1)
    user: int = Field(4, ge=1)

    def of(self, tower: Tower) -> int:
        return self.user if tower == "user" else self.item


class LoRAConfig(AdapterMethod):
    """Queries and values change by low-rank matrices; everything else is frozen.

    Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, with the ranks and the α of Fu
    et al., WSDM 2024. Their code puts fresh layers in the place of the pretrained ones: those weights are random and
    frozen, their biases train (`variant: released`).
    """

    rates = Rates(text=1e-3, image=1e-3)

    name: Literal["lora"] = "lora"
    sites: list[Literal["query", "key", "value", SubLayerEnd]] = Field(["query", "value"], min_length=1)
    layers: list[int] | None = Field(None, min_length=1)  # of the item towers; None: all
    rank: Ranks = Ranks()
    alpha: float = Field(1.0, gt=0)
    variant: Literal["canonical", "released"] = "canonical"

    def attach(self, model: nn.Module) -> None:
        kind = LowRank if self.variant == "canonical" else FreshLowRank
        for tower in self.towers:
            for name in self.sites:
                for site in sites(model, tower, name, self.layers):
                    linear: Any = site.module
                    self.put(site, kind(linear.in_features, linear.out_features, self.rank.of(tower), self.alpha))


class LowRank(nn.Module):
    """y + (α/r) B A x, with B = 0 at the start."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.a = nn.Linear(inputs, rank, bias=False)  # PyTorch's default is the paper's code's: Kaiming-uniform, √5
        self.b = nn.Linear(rank, outputs, bias=False)
        self.alpha = alpha
        nn.init.zeros_(self.b.weight)

    @property
    def rank(self) -> int:
        return self.a.out_features

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.change(x)

    def change(self, x: Tensor) -> Tensor:
        return self.alpha / self.rank * self.b(self.a(x))


class FreshLowRank(LowRank):
    """W x + b + (α/r) B A x with a random, frozen W; what the site itself says is lost."""

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
    """Fold each change into the matrix beside it: the same function without adapters.

    Call on whole weights, not under ZeRO-3.

    Raises:
        ConfigError: there is no LoRA, or one whose base is lost.
    """
    for path, adapter in _low_ranks(model).items():
        linear: Any = model.get_submodule(path)
        linear.weight += adapter.alpha / adapter.rank * adapter.b.weight @ adapter.a.weight
        detach(linear)


def as_peft(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`adapter_config.json` and the tensors of `adapter_model.safetensors`, as PEFT reads them for `model`.

    Give it the backbone to use the adapter on the published model, or the whole recommender.

    Raises:
        ConfigError: there is no LoRA, or none that PEFT can express.
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
    adapters = {path.removesuffix(".adapter"): m for path, m in model.named_modules() if isinstance(m, LowRank)}
    if not adapters:
        raise ConfigError("there is no LoRA in the model: nothing can be merged or written for PEFT")
    if any(isinstance(adapter, FreshLowRank) for adapter in adapters.values()):
        raise ConfigError("`variant: released` of LoRA has other matrices than its base: choose the canonical one")
    return adapters
