"""Interests, which summarise a user's history with respect to one candidate. `name:` chooses one.

An interest maps vectors of candidates (B, D) and of the items of histories (B, L, D), with their mask (B, L), to one
vector (B, D) for each candidate. It depends neither on batches nor on the source of the vectors: ids, content or both.
The result for a user without a history is the zero vector.
"""

from typing import Annotated

from pydantic import Field

from transrec.interests.content_interest import ContentInterestConfig
from transrec.interests.din import DINConfig
from transrec.interests.mean import MeanConfig

InterestConfig = Annotated[MeanConfig | DINConfig | ContentInterestConfig, Field(discriminator="name")]
