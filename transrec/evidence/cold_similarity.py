"""Content similarity of cold items, which have no interaction in training, with a weight of their own.

Counts raise the logits of other items, but not those of cold items, so content needs more weight there. This weight is
a setting and is not fitted: few validation targets are cold, and past interactions do not show how much a shop wants to
promote its new items.

Designs considered. A constant for cold items: it raises every cold item for every user, and an entry for each of them
makes the scores dense. The counts of a cold item's content neighbours: they share the weight of counts, and rank worse
than content_similarity. A weight learned in training from items whose counts are hidden: it came out at half of the
setting or less, and cold items were found less often. Chosen: similarity, which is sparse and depends on the history.
docs/results/index.md shows how the default weight was chosen.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from transrec.data.batch import SeenItems
from transrec.evidence.content_similarity import ContentSimilarity, ContentSimilarityConfig
from transrec.evidence.neighbours import Neighbours, of_items


class ColdSimilarityConfig(ContentSimilarityConfig):
    """Configuration of `ColdSimilarity`."""

    name: Literal["cold_similarity"] = Field(  # type: ignore[assignment]  # the only difference of a subclass
        "cold_similarity", description="similarity to the items of the history, for items without interactions only"
    )
    weight: float = Field(0.4, description="weight of the evidence in the logits; not fitted")
    scale: float = Field(1e4, gt=0, description="factor of the scores inside the logarithm; not fitted")

    fitted: ClassVar[bool] = False

    @property
    def key(self) -> str:
        return f"cold_{super().key}"

    def tables(self) -> dict[str, Any]:
        """The settings that the table depends on; the table is that of content similarity."""
        return super().tables() | {"name": ContentSimilarityConfig.model_fields["name"].default}

    def load(self, folder: Path) -> "ColdSimilarity":
        """The evidence in a folder that was filled by `work`."""
        return ColdSimilarity(self, Neighbours(folder))


class ColdSimilarity(ContentSimilarity):
    """`ContentSimilarity` restricted to cold items."""

    def scores(self, seen: SeenItems) -> sparse.csr_array:
        """The score of every cold candidate for each history, (B, N + 1)."""
        return of_items(super().scores(seen), seen.cold or _none)


def _none(items: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    return np.zeros(len(items), np.bool_)
