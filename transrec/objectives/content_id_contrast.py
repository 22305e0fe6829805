"""Content-ID contrast: the content and the id of an item are closer to each other than to those of other items.

Shape letters: B anchors, K others, D width of the content, E width of the ids, P width of their common space.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config

_NORM_EPS = 1e-5


class ContentIDContrastConfig(Config):
    """Configuration of `ContentIDContrast`."""

    weight: float = Field(0.1, gt=0, description="weight of this loss when added to the click loss")
    temperature: float = Field(0.1, gt=0, description="divisor of the cosines")
    negatives: Literal["sampled", "in_batch"] = Field(
        "sampled", description="negatives: items sampled once per step, or the other items of the micro-batch"
    )
    count: int = Field(16, ge=1, description="number of items sampled at each step, with replacement")

    def build(self, content_width: int, id_width: int) -> "ContentIDContrast":
        return ContentIDContrast(self, content_width, id_width)


class Sides(NamedTuple):
    """Items, with the two sides of each."""

    items: Tensor  # (B,) catalogue indices
    content: Tensor  # (B, D)
    ids: Tensor  # (B, E)
    has_content: Tensor  # (B,) bool


class ContentIDContrast(nn.Module):
    """½ Σ [CE(c·i⁺, c·i⁻) + CE(i·c⁺, i·c⁻)] with c = W_c content / |W_c content| and i = W_i id / |W_i id|, over τ.

    Paper: EM3 (arXiv 2404.06078), with the details of its public code: both sides are trained, and negatives are drawn
    uniformly. Deviations: a negative that is the anchor itself is left out, and so are items without content.
    """

    def __init__(self, config: ContentIDContrastConfig, content_width: int, id_width: int) -> None:
        super().__init__()
        self.weight, self.temperature = config.weight, config.temperature
        self.content = nn.Linear(content_width, content_width)
        self.ids = nn.Linear(id_width, content_width)

    def forward(self, anchors: Sides, others: Sides) -> Tensor:
        """The weighted sum of the loss over the anchors that have content."""
        with torch.autocast(anchors.content.device.type, enabled=False):
            c_BP, i_BP = self._unit(anchors)
            c_KP, i_KP = self._unit(others)
            wrong_BK = (anchors.items[:, None] == others.items) | ~others.has_content
            loss_B = (self._loss(c_BP, i_BP, i_KP, wrong_BK) + self._loss(i_BP, c_BP, c_KP, wrong_BK)) / 2
            return self.weight * loss_B.masked_fill(~anchors.has_content, 0).sum()

    def _unit(self, of: Sides) -> tuple[Tensor, Tensor]:
        sides = self.content(of.content.float()), self.ids(of.ids.float())
        return F.normalize(sides[0], dim=-1, eps=_NORM_EPS), F.normalize(sides[1], dim=-1, eps=_NORM_EPS)

    def _loss(self, anchors: Tensor, positives: Tensor, negatives: Tensor, wrong: Tensor) -> Tensor:
        positive_B1 = (anchors * positives).sum(-1, keepdim=True)
        negative_BK = (anchors @ negatives.T).masked_fill(wrong, -torch.inf)
        logits = torch.cat([positive_B1, negative_BK], dim=1) / self.temperature
        return F.cross_entropy(
            logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device), reduction="none"
        )
