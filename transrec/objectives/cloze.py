"""Cloze: some items of a window are hidden, and the state at each hidden item has to score that item highest."""

from typing import Literal

from pydantic import Field

from transrec.config import Config
from transrec.data.batch import Sampling
from transrec.objectives.next_item import FullSoftmax, SampledSoftmax, Softmax


class ClozeConfig(Config):
    """For bidirectional user encoders; in evaluation, the mask token follows a user's items.

    Paper: Sun et al., "BERT4Rec", CIKM 2019. With `masked: 0.3`, it is the pretraining of PeterRec (Yuan et al., SIGIR
    2020) with the encoder of Yuan et al., "Future Data Helps Training" (GRec), WWW 2020.
    """

    name: Literal["cloze"] = Field("cloze", description="predict items that are hidden in the window")
    masked: float = Field(
        0.3, gt=0, lt=1, description="share of a window's items that are hidden; at least one item is"
    )
    candidates: float | None = Field(
        None, gt=0, lt=1, description="share of the catalogue in a sampled softmax; null: full softmax"
    )
    temperature: float = Field(1.0, gt=0, description="initial temperature, which divides the inner products")
    learn_temperature: bool = Field(False, description="train the temperature with the head")

    @property
    def sampling(self) -> Sampling:
        if self.candidates is None:
            return Sampling(loss=self.name, pool="catalogue", masked=self.masked)
        return Sampling(loss=self.name, candidates=self.candidates, masked=self.masked)

    def build(self) -> Softmax:
        kind = FullSoftmax if self.candidates is None else SampledSoftmax
        return kind(self.sampling, self.temperature, self.learn_temperature)
