"""Transitions: counts of pairs in chronological order.

Paper: the Markov chain baselines of SASRec (Kang and McAuley, ICDM 2018). Deviation: an item has transitions to
all later items in the window, with equal weights, and not only to the next item. On two sparse data sets, a window of
20 ranked better than 1, 3 or 10, and ranking was better without normalising by the candidate's frequency.
"""

from typing import ClassVar, Literal

from pydantic import Field

from transrec.evidence.pair_counts import PairCountsConfig


class TransitionsConfig(PairCountsConfig):
    """How often one item follows another in sequences."""

    name: Literal["transitions"] = Field("transitions", description="counts of later items in users' sequences")
    decay: float = Field(0.0, ge=0, description="a pair at distance d has weight d^-decay")
    column_power: float = Field(0.0, ge=0, description="counts are divided by the candidate's total to this power")
    recency: float = Field(1.0, ge=0, description="the item p places from the end of a history has weight p^-recency")

    forward: ClassVar[bool] = True
