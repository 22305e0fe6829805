"""Fusions, which combine the vectors of an item's modalities into one. `name:` chooses one.

A missing modality is masked, never read, so the values in its place do not affect the result. The exceptions `concat`
and `gated` read the zeros that the encoder puts there; a new fusion should use the mask. An item without any modality
has the zero vector.

So a missing modality differs from one whose vector is zero, which takes part: the mean of (a, 0) is a / 2, that of a
alone is a. Otherwise an item would be moved towards zero only because it has no picture, and a picture whose vector
happens to be zero would be ignored.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from transrec.item_encoders.fusions.concat import ConcatConfig
from transrec.item_encoders.fusions.fq_former import FusionQFormerConfig
from transrec.item_encoders.fusions.gated import GatedConfig
from transrec.item_encoders.fusions.q_former import QFormerConfig
from transrec.item_encoders.fusions.single_stream import SingleStreamConfig
from transrec.item_encoders.fusions.sum import SumConfig
from transrec.item_encoders.fusions.two_stream import TwoStreamConfig


def _named(fusion: Any) -> Any:
    """A name stands for the fusion of that name with its default settings."""
    return {"name": fusion} if isinstance(fusion, str) else fusion


FusionConfig = Annotated[
    SumConfig | ConcatConfig | GatedConfig | SingleStreamConfig | TwoStreamConfig | QFormerConfig | FusionQFormerConfig,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
