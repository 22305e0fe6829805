"""Content interest: softmax attention of a candidate over a history, with one projection of the history.

Shape letters: B candidates, L items of their histories, D width.
"""

import math
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.nn.readout import softmax_over
from transrec.protocols import Interest


class ContentInterestConfig(Config):
    """Configuration of `ContentInterest`."""

    name: Literal["content_interest"] = Field(
        "content_interest", description="softmax attention of the candidate to the history (EM3)"
    )

    def build(self, width: int) -> "ContentInterest":
        return ContentInterest(width)


class ContentInterest(Interest):
    """Σ_l a_l e_l with a = softmax_l(c · W e_l / √D).

    Paper: EM3 (arXiv 2404.06078), section 3.3. W costs L D² for each candidate, so with long histories the paper
    freezes W and trains a low-rank update of it, which is LoRA at the site `interest_key`. The scale 1/√D is ours.
    """

    num_layers = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        self.hidden_size = width
        self.site_paths = {"interest_key": ["key"]}

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Interests (B, D); see `Interest`."""
        scores_BL = (self.key(history) @ candidates.unsqueeze(-1)).squeeze(-1) / math.sqrt(candidates.shape[-1])
        weights_BL = softmax_over(mask, scores_BL)
        return (history * weights_BL.unsqueeze(-1)).sum(1)
