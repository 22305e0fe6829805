"""Co-occurrence: counts of pairs in both directions, over most of a sequence.

Paper: item-based top-N recommendation (Deshpande and Karypis, TOIS 2004).
"""

from typing import Literal

from pydantic import Field

from transrec.evidence.pair_counts import PairCountsConfig


class CoOccurrenceConfig(PairCountsConfig):
    """How often two items occur in the same sequences."""

    name: Literal["co_occurrence"] = Field("co_occurrence", description="counts of pairs of items in users' sequences")
