"""BERT4Rec: a transformer that attends to the items on both sides of a position.

Shape letters: B users, L positions, D width.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from transrec.user_encoders.sasrec import SASRec, TransformerSettings


class BERT4RecConfig(TransformerSettings):
    """Configuration of `BERT4Rec`."""

    name: Literal["bert4rec"] = Field("bert4rec", description="a bidirectional transformer, for the `cloze` objective")

    causal: ClassVar[bool] = False
    activation: ClassVar[type[nn.Module]] = nn.GELU

    def build(self, width: int, max_length: int) -> "BERT4Rec":
        return BERT4Rec(self, width, max_length)


class BERT4Rec(SASRec):
    """The blocks of `SASRec` with attention to all items and a GELU in the feed-forward layers.

    Paper: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", CIKM 2019. Deviations, shared with `SASRec`: projections of the attention have no biases, the input is
    normalised, and a padded query attends to itself. The paper's projection of the states before they are scored is
    left out.
    """
