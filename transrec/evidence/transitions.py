"""Transitions: counts of pairs in the order of time, of items close to each other.

Paper: the Markov chain baselines of SASRec (Kang and McAuley, ICDM 2018). Deviation: an item's transitions are to all
of the next few items.
"""

from typing import ClassVar, Literal

from pydantic import Field

from transrec.evidence.pair_counts import PairCountsConfig


class TransitionsConfig(PairCountsConfig):
    """Which items follow on which."""

    name: Literal["transitions"] = Field("transitions", description="counts of items that followed in users' sequences")
    window: int = Field(3, ge=1, description="largest distance of two items of a sequence that count as a pair")

    forward: ClassVar[bool] = True
