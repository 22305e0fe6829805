"""Evidence: scores of candidates from counts and content, without a user encoder. `name:` chooses the kind.

Evidence is counted or computed once per set of shards and stored in the node's cache. Only the weight and the scale
with which each kind is added to the logits belong to the model, and only these are carried over to another catalogue.
They are fitted to the validation targets (`fitting`), so no training target can be found through its own count.

Designs considered for where scores are looked up. Tables in the model, as buffers: they would be exported, carried to
other catalogues and copied to every GPU (16 GB for 10 million items). Dense (questions, items) matrices: a pass over
them costs as much as scoring itself. Chosen: scores are looked up where questions are built, from memory-mapped tables,
and a question carries the few nonzero scores.
"""

from typing import Annotated

from pydantic import Field

from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.cold_similarity import ColdSimilarityConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig
from transrec.evidence.transitions import TransitionsConfig

EvidenceConfig = Annotated[
    CoOccurrenceConfig | TransitionsConfig | ContentSimilarityConfig | ColdSimilarityConfig, Field(discriminator="name")
]
