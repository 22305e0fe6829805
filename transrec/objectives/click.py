"""Clicks: the probability of each kind of response to an impression.

Shape letters: B impressions, H heads.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from transrec.config import Config
from transrec.objectives.content_id_contrast import ContentIDContrastConfig


class ClickConfig(Config):
    """The losses of a ranking model."""

    name: Literal["click"] = Field("click", description="binary cross-entropy of each head")
    heads: list[str] = Field(["click"], min_length=1, description="the heads, as in data.examples.heads")
    content_id_contrast: ContentIDContrastConfig | None = Field(
        None, description="additional loss that brings the content and the id of an item together; null: none"
    )


def click_losses(logits: Tensor, labels: Tensor, observed: Tensor) -> Tensor:
    """Binary cross entropy, summed over the impressions in which each head was observed, (H,).

    Args:
        logits: (B, H).
        labels: (B, H) 1 for an answer such as a click, else 0; any number where it was not observed.
        observed: (B, H) bool.
    """
    logits, targets = logits.float(), labels.float().masked_fill(~observed, 0)
    return (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * observed).sum(0)
