"""CPC: the next-item loss at the last position only, one prediction per user and step."""

from typing import Literal

from pydantic import Field

from transrec.config import Config
from transrec.data.batch import Sampling
from transrec.objectives.next_item import BinaryCrossEntropy


class CPCConfig(Config):
    """CPC as in TransRec (Fu et al., WSDM 2024): not InfoNCE, but the loss of its SASRec, at the last state only."""

    name: Literal["cpc"] = Field("cpc", description="predict the last item against sampled ones")
    negatives: int = Field(1, ge=1, description="sampled negatives per window")

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, positions="last", negatives=self.negatives)

    def build(self) -> BinaryCrossEntropy:
        return BinaryCrossEntropy(self.sampling)
