"""Prompt tuning: learned tokens inserted into the token sequence of an item's text or image.

Shape letters: n sequences, T positions, P prompts, H width.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.adaptation.attach import sites
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.protocols import Adapter, Model


class PromptConfig(AdapterMethod):
    """Prompts are inserted after the class token of every item; everything else is frozen.

    Papers: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; for images the
    shallow form of Jia et al., "Visual Prompt Tuning", ECCV 2022. The default number of prompts is that of Fu et al.,
    WSDM 2024, for text; for images they use 10. Deviations: prompts are inserted after the embeddings' LayerNorm, and
    start as embeddings of random words for text and as zeros for images; mean pooling includes them. The code of Fu et
    al. replaces the title's first tokens with prompts, so these tokens are not read (`variant: released`; for images,
    it is the same as the canonical form). Training does not start near the pretrained function, because every position
    can attend to the prompts.
    """

    rates = RateByModality(text=5e-5, image=2e-4)

    name: Literal["prompt"] = Field("prompt", description="learned tokens inserted before an item's own tokens")
    towers: list[Literal["item", "text", "image"]] = Field(  # type: ignore[assignment]
        ["item"], min_length=1, description="towers that get prompts"
    )
    tokens: int = Field(30, ge=1, description="number of prompts per item")
    variant: Literal["canonical", "released"] = Field(
        "canonical", description="the paper's form, or the form in the released code"
    )

    def adapters(self, model: Model) -> Iterator[Placed]:
        for tower in self.towers:
            for site in sites(model, tower, "embeddings"):
                replaces = self.variant == "released" and site.modality == "text"
                kind = ReplacingPrompt if replaces else Prompt
                encoder: Any = site.encoder  # an encoder with embeddings
                yield Placed(site, kind(encoder.draw_prompts(self.tokens)))


class Prompt(Adapter):
    """[y_1; prompts; y_2 … y_T]."""

    def __init__(self, start_PH: Tensor):
        super().__init__()
        self.tokens = nn.Parameter(start_PH)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        prompts_nPH = self.tokens.to(y.dtype).expand(len(y), -1, -1)
        return torch.cat([y[:, :1], prompts_nPH, y[:, 1:]], dim=1)


class ReplacingPrompt(Prompt):
    """[prompts; y_{P+1} … y_T], cut at T."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        prompts_nPH = self.tokens[: y.shape[1]].to(y.dtype).expand(len(y), -1, -1)
        return torch.cat([prompts_nPH, y[:, len(self.tokens) :]], dim=1)
