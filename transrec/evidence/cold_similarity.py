"""Content similarity of cold items, which have no interaction in training, with a weight of their own.

Counts raise the logits of other items, but nothing raises those of cold items, so content needs more weight there. No
training target is cold, so that weight has to be learned from items that are made cold: at each step, the counts of a
random share of the items are hidden (as inputs are in DropoutNet, Volkovs et al., "DropoutNet: Addressing Cold Start in
Recommender Systems", NeurIPS 2017).

Designs considered. A constant for cold items, learned in the same way: it raises every cold item for every user, and an
entry for each of them makes a batch dense. The counts of a cold item's content neighbours: they share the weight of
counts, which was learned with exact counts, and rank worse than content_similarity. Chosen: similarity, which is sparse
and tells which cold items to raise.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from transrec.data.batch import HistoryPoints
from transrec.evidence.content_similarity import ContentSimilarity, ContentSimilarityConfig
from transrec.evidence.neighbours import Neighbours, of_items


class ColdSimilarityConfig(ContentSimilarityConfig):
    """Configuration of `ColdSimilarity`."""

    name: Literal["cold_similarity"] = Field(  # type: ignore[assignment]  # the only difference of a subclass
        "cold_similarity", description="similarity to the items of the history, for items without interactions only"
    )
    weight: float = Field(0.3, description="initial weight of the evidence in the logits; learned")
    scale: float = Field(1e4, gt=0, description="initial factor of the scores inside the logarithm; learned")
    hidden: float = Field(
        0.1, gt=0, lt=1, description="share of the items treated as cold at each training step: their counts are hidden"
    )

    @property
    def key(self) -> str:
        return f"cold_{super().key}"

    def tables(self) -> dict[str, Any]:
        """The settings that the table depends on; the table is that of content similarity."""
        shared = super().tables()
        del shared["hidden"]
        return shared | {"name": ContentSimilarityConfig.model_fields["name"].default}

    def load(self, folder: Path) -> "ColdSimilarity":
        """The evidence in a folder that was filled by `work`."""
        return ColdSimilarity(self, Neighbours(folder))


class ColdSimilarity(ContentSimilarity):
    """As `ContentSimilarity`, but only for cold items; in training, for the items treated as cold."""

    def __init__(self, config: ColdSimilarityConfig, kernel: Neighbours) -> None:
        super().__init__(config, kernel)
        self.hidden = config.hidden

    def scores(self, points: HistoryPoints) -> sparse.csr_array:
        """The score of every cold candidate for each history, (S, N + 1)."""
        cold = points.cold or _none
        return of_items(super().scores(points), cold)


def _none(items: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    return np.zeros(len(items), np.bool_)
