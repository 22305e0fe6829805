"""Interests: a user's history read for one candidate. `name:` chooses each.

An interest maps vectors of candidates (B, D) and of the items of histories (B, L, D), with their mask (B, L), to one
vector (B, D) for each candidate. It knows neither batches nor where the vectors come from: ids, content or both. A user
without a history has the zero vector.
"""

from typing import Annotated

from pydantic import Field

from transrec.interests.content_interest import ContentInterestConfig
from transrec.interests.din import DINConfig
from transrec.interests.mean import MeanConfig

InterestConfig = Annotated[MeanConfig | DINConfig | ContentInterestConfig, Field(discriminator="name")]
