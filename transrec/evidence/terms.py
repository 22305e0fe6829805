"""Terms that add evidence to a model's logits, with fitted weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.data.batch import SparseScores
from transrec.protocols import FittedWeights


class EvidenceSettings(Config):
    """Settings shared by all kinds of evidence."""

    weight: float = Field(1.0, description="weight of the evidence in the logits, until it is fitted")
    scale: float = Field(30.0, gt=0, description="factor of the scores inside the logarithm, until it is fitted")

    fitted: ClassVar[bool] = True  # whether weight and scale are fitted to the validation targets

    @property
    def key(self) -> str:
        """Name of the term in the model; unique among the evidence of a model."""
        name: str = self.name  # type: ignore[attr-defined]  # of each kind
        return name


class EvidenceTerm(nn.Module):
    """w · log(1 + c · s) of evidence s >= 0, with a weight w and a scale c > 0.

    The logarithm turns counts into logits: doubling a count adds a constant. Nothing is added where there is no
    evidence, so terms stay sparse.
    """

    def __init__(self, weight: float, scale: float) -> None:
        super().__init__()
        self.weight: Tensor
        self.log_scale: Tensor
        self.register_buffer("weight", torch.tensor([weight]))
        self.register_buffer("log_scale", torch.tensor([math.log(scale)]))

    def forward(self, scores: Tensor) -> Tensor:
        """Terms (E,) of scores (E,)."""
        return self.weight.float() * torch.log1p(self.log_scale.float().exp() * scores)


class EvidenceTerms(FittedWeights, nn.ModuleDict):
    """The terms of a model, by kind of evidence, and the factor of the network's logits."""

    def __init__(self, settings: Sequence[EvidenceSettings]) -> None:
        super().__init__({one.key: EvidenceTerm(one.weight, one.scale) for one in settings})
        self.network: Tensor
        if settings:  # otherwise there is nothing to weigh the network against
            self.register_buffer("network", torch.ones(1))

    def forward(self, evidence: Sequence[SparseScores]) -> list[SparseScores]:
        """The contributions to the logits, from the scores of each kind in the order of the settings."""
        pairs = zip(self.values(), evidence, strict=True)
        return [replace(scores, values=term(scores.values)) for term, scores in pairs]


def check_keys(settings: Sequence[Any]) -> None:
    """
    Raises:
        ValueError: a kind of evidence is listed more than once.
    """
    keys = [one.key for one in settings]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"evidence: {twice[0]} is listed more than once: list it once")
