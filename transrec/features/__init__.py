"""Features: inputs of a ranking model in addition to content. `of:` chooses what a feature describes.

A feature's values are strings, and its vocabulary maps each to a row of an embedding table; row 0 stands for all
values that training has not seen. Vocabularies are built from the training data alone and stored with the weights.
"""

from typing import Annotated

from pydantic import Field

from transrec.features.feature import (
    ContextFeature,
    ItemColumnFeature,
    ItemIdFeature,
    RequestFeature,
    TimeFeature,
    UserColumnFeature,
    UserIdFeature,
)

FeatureConfig = Annotated[
    UserIdFeature
    | ItemIdFeature
    | ItemColumnFeature
    | UserColumnFeature
    | ContextFeature
    | TimeFeature
    | RequestFeature,
    Field(discriminator="of"),
]
