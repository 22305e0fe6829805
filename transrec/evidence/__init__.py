"""Evidence: scores of candidates from counts and content, without a user encoder. `name:` chooses the kind.

Evidence is counted or computed once per set of shards and stored in the node's cache. The model learns only how to
add each kind to its logits (a weight and a scale), and only these are carried over to another catalogue.

Designs considered for where scores are looked up. Tables in the model, as buffers: they would be exported, carried to
other catalogues and copied to every GPU (16 GB for 10 million items). Dense (positions, items) matrices: a pass over
them costs as much as the softmax itself. Chosen: the loader looks scores up where it builds the batch, from
memory-mapped tables, and the batch carries the few nonzero scores.

Designs considered against leaks, since the counts contain every training target. Counting without the newest target of
each user: the model could be trained on only one position per user. A second table for training: it still holds the
other targets. Chosen: the counts hold everything, and a user's own pairs are subtracted when that user is trained on.
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
